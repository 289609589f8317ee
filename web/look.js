// What is inside a model: the attention of every head, the likeliest tokens after every block, the loss of every token. For exported pages
// and for those of `wgpt inspect`.
//
// data: { tokens: [text], own, blocks: [{ heads, attention: Float32Array (heads, T, T), best: [[[text, log p], ...], ...], logProbs: [nats] }] }
// `own`: a position is about its own token, as in encoders; otherwise about the next.

const visible = text => (text === " " ? "␣" : text.replaceAll("\n", "⏎").replaceAll("\t", "⇥"));

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// In a line of text a space is one.
const shown = text => (text === " " ? text : visible(text));

// How strong a colour is: a step of attention must be seen also where it is small.
const strength = p => Math.sqrt(p);
const colour = (p, name = "--one") => `rgba(var(${name}), ${(strength(p) * 0.85).toFixed(3)})`;

export function show(place, data) {
  const { tokens, own, blocks } = data, count = tokens.length;
  let block = blocks.length - 1, head = 0, chosen = count - 1;
  place.textContent = "";
  const about = element("p", { className: "faint", textContent: "Choose a token: its attention and predictions follow. Arrow keys go from token to token; the blue is what it attends to." });
  const line = element("div", { className: "text tokens", tabIndex: 0, role: "listbox", ariaLabel: "tokens" });
  const words = tokens.map((text, n) => element("span", { textContent: shown(text), role: "option", onclick: () => choose(n), onmouseenter: () => choose(n) }));
  line.append(...words);
  const losses = element("div", { className: "text tokens" }), lossesSum = element("p", { className: "faint" });
  const blockChoice = element("select", { ariaLabel: "block", onchange: event => { block = Number(event.target.value); drawHeads(); draw(); } });
  blocks.forEach((_, n) => blockChoice.append(element("option", { value: n, textContent: `block ${n + 1} of ${blocks.length}`, selected: n === block })));
  const heads = element("div", { className: "heads" }), lens = element("div", { className: "scroll" });
  place.append(
    element("h2", { textContent: "Attention" }), about, line,
    element("div", { className: "row" }, element("label", { className: "faint" }, "layer ", blockChoice)), heads,
  );
  if (blocks[0].best.length > 0) {
    place.append(element("h2", { textContent: own ? "The token in this place, after each block" : "The next token, after each block" }), lens);
    place.append(element("h2", { textContent: "Loss of each token" }), losses, lossesSum);
  }

  const weight = (n, from, to) => blocks[block].attention[(n * count + from) * count + to];

  function drawHeads() {
    heads.textContent = "";
    for (let n = 0; n < blocks[block].heads; n++) {
      const canvas = element("canvas", { width: count, height: count });
      const button = element("button", { onclick: () => { head = n; draw(); }, ariaLabel: `head ${n + 1}` }, canvas, `head ${n + 1}`);
      heads.append(button);
      const context = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
      const [r, g, b] = style.getPropertyValue("--one").split(",").map(Number);
      const image = context.createImageData(count, count);
      for (let i = 0; i < count * count; i++) image.data.set([r, g, b, 255 * strength(blocks[block].attention[n * count * count + i])], 4 * i);
      context.putImageData(image, 0, 0);
    }
    head = Math.min(head, blocks[block].heads - 1);
  }

  function draw() {
    words.forEach((word, n) => {
      word.style.background = colour(weight(head, chosen, n));
      word.classList.toggle("chosen", n === chosen);
      word.ariaSelected = n === chosen;
      word.title = `${(100 * weight(head, chosen, n)).toFixed(1)}%`;
    });
    [...heads.children].forEach((button, n) => button.setAttribute("aria-pressed", n === head));
    if (blocks[0].best.length > 0) drawLens();
  }

  function drawLens() {
    const table = element("table"), after = tokens[own ? chosen : chosen + 1];
    const title = after === undefined ? "" : ` p(${visible(after)})`;
    table.append(element("tr", {}, ...["block", "likeliest, with their probabilities", title].map(text => element("th", { textContent: text }))));
    blocks.forEach(({ best, logProbs }, n) => {
      const cell = element("td");
      for (const [text, logP] of best[chosen]) {
        cell.append(element("span", { textContent: `${visible(text)} `, style: `background: ${colour(Math.exp(logP))}` }), `${(100 * Math.exp(logP)).toFixed(0)}%  `);
      }
      const known = after === undefined ? "" : `${(100 * Math.exp(logProbs[chosen])).toFixed(1)}%`;
      table.append(element("tr", {}, element("td", { textContent: n + 1 }), cell, element("td", { textContent: known })));
    });
    lens.replaceChildren(table);
  }

  function drawLosses() {
    const { logProbs } = blocks.at(-1), known = [];
    losses.replaceChildren(...tokens.map((text, n) => {
      const at = own ? n : n - 1, loss = at < 0 ? undefined : -logProbs[at];
      if (loss !== undefined) known.push(loss);
      return element("span", {
        textContent: shown(text), title: loss === undefined ? "the first token is given" : `${loss.toFixed(3)} nats`,
        style: loss === undefined ? "" : `background: ${colour(Math.min(1, loss / 8), "--two")}`,
      });
    }));
    const mean = known.reduce((a, b) => a + b, 0) / Math.max(1, known.length);
    lossesSum.textContent = `The mean is ${mean.toFixed(3)} nats per token; the redder, the more surprising.`;
  }

  function choose(n) {
    chosen = Math.min(count - 1, Math.max(0, n));
    draw();
  }

  line.addEventListener("keydown", event => {
    const by = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    if (by) { event.preventDefault(); choose(chosen + by); }
  });
  drawHeads();
  draw();
  if (blocks[0].best.length > 0) drawLosses();
}

// Numbers from 0 to 1 that a page holds as base64 of 16 bits each.
export function unpacked(base64) {
  const bytes = Uint8Array.from(atob(base64), c => c.charCodeAt(0));
  return Float32Array.from(new Uint16Array(bytes.buffer), n => n / 65535);
}
