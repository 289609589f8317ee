// What pages share: colours, elements, rows of tables, numbers, ticks of axes.
// Okabe and Ito's colours, which stay apart for the colour-blind, and read on light and on dark ground.
const COLORS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8f7fd6", "#808080"];
const color = n => COLORS[n % COLORS.length];
const dash = n => n < COLORS.length ? "" : "6 4";
const byId = id => document.getElementById(id);
function element(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}
function row(cells, kind) {
  const made = document.createElement("tr");
  for (const cell of cells) { const td = document.createElement(kind); td.textContent = cell; made.append(td); }
  return made;
}
const short = v => v === null || v === undefined ? "-" : Math.abs(v) >= 1e5 || (v !== 0 && Math.abs(v) < 1e-3) ? v.toExponential(2) : String(+v.toPrecision(5));
function ticks(low, high, count) {
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(n => n * power).find(n => n >= raw) || raw;
  const out = [];
  for (let n = Math.ceil(low / step); n * step <= high + step * 1e-9; n++) out.push(n * step);
  return out;
}
