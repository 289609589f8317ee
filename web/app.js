// The page: three views of one model.

import { Program, json, open } from "wgpt/player";
import { Generator, withWeights } from "wgpt/generate";
import { tokenizerOf } from "wgpt/tokenizer";
import { Run, curve } from "wgpt/train";
import { show } from "wgpt/look";

const at = id => document.getElementById(id);
const later = () => new Promise(done => setTimeout(done));

function fail(error) {
  at("error").hidden = false;
  at("error").textContent = error.message;
}

// Runs what a button asks for; what goes wrong is said.
const guarded = action => async (...given) => {
  at("error").hidden = true;
  try { await action(...given); } catch (error) { console.error(error); fail(error); }
};

const tabs = ["sample", "train", "look"];
function choose(tab) {
  for (const name of tabs) {
    at(name).hidden = name !== tab;
    at(`tab-${name}`).setAttribute("aria-selected", name === tab);
    at(`tab-${name}`).tabIndex = name === tab ? 0 : -1;
  }
}
tabs.forEach((name, n) => {
  at(`tab-${name}`).addEventListener("click", () => choose(name));
  at(`tab-${name}`).addEventListener("keydown", event => {
    const by = { ArrowLeft: tabs.length - 1, ArrowRight: 1 }[event.key];
    if (!by) return;
    const next = tabs[(n + by) % tabs.length];
    choose(next);
    at(`tab-${next}`).focus();
  });
});

const first = "The kind girl ";

async function begin() {
  const manifest = await json("manifest.json"), tokenizer = tokenizerOf(manifest.tokenizer);
  at("name").textContent = manifest.name;
  const device = await open(manifest.needs);
  let generator;
  const store = await withWeights(device, manifest, async store => {
    at("state").textContent = "compiling kernels";
    generator = await Generator.load(store, manifest.model, (done, of) => { at("progress").value = 0.5 * (done / of); });
    at("state").textContent = "loading weights";
  }, share => { at("progress").value = 0.5 + 0.5 * share; });
  at("state").textContent = `${manifest.parameters.toLocaleString()} parameters, ${manifest.model.context} tokens of context`;
  at("progress").hidden = true;
  return { manifest, tokenizer, device, store, generator };
}

function samplePanel({ manifest, tokenizer, generator }) {
  const [temperature, topK, topP, minP, penalty] = manifest.params;
  [["temperature", temperature], ["top-k", topK], ["top-p", topP]].forEach(([id, value]) => { at(id).value = Number(value.toFixed(4)); });
  at("prompt").value = tokenizer.known(first).text;
  let running = false, stopped;
  at("generate").disabled = false;
  at("generate").addEventListener("click", guarded(async () => {
    if (running) { stopped = true; return; }
    const prompt = tokenizer.prompt(at("prompt").value);
    if (prompt.length === 0) throw new Error("Write something for the model to continue.");
    const number = id => Number(at(id).value), params = [number("temperature"), number("top-k"), Math.max(number("top-p"), 1e-30), minP, penalty];
    const given = Object.assign(document.createElement("span"), { className: "given", textContent: at("prompt").value });
    at("text").replaceChildren(given);
    [running, stopped] = [true, false];
    at("generate").textContent = "Stop";
    const began = performance.now(), push = tokenizer.stream();
    let count = 0;
    try {
      for await (const { id } of generator.generate({ prompt, tokens: number("tokens"), params, seed: number("seed"), stop: manifest.stop })) {
        at("text").append(push(id));
        count += 1;
        at("speed").textContent = `${count} tokens, ${(count / (performance.now() - began) * 1000).toFixed(0)} a second`;
        if (stopped) break;
      }
    } finally {
      running = false;
      at("generate").textContent = "Generate";
    }
  }));
}

function trainPanel({ manifest, tokenizer, device }) {
  const { training } = manifest;
  if (!training) {
    at("about-training").textContent = "This page's model is too large to train here: pages of models of characters or bytes train the demo preset.";
    at("start").disabled = true;
    return;
  }
  at("about-training").textContent = `A small GPT of random weights learns ${training.rates.length} steps of ${training.batch} windows of ${training.context} tokens, on this device.`;
  let run, writer, losses = [], running = false, stopped, floor;

  async function prepare() {
    at("training-state").textContent = "compiling kernels";
    const own = at("corpus").value, { text, lost } = tokenizer.known(own || training.text);
    const loaded = await Run.load(device, training, (done, of) => { at("training-state").textContent = `compiling kernels, ${done} of ${of}`; });
    try {
      loaded.learnFrom(tokenizer.encode(text));
      writer = await Generator.load(loaded.store, training.model ?? manifest.model);
    } catch (error) {
      loaded.store.free();
      throw error;
    }
    run = loaded;
    floor = own ? undefined : training.floor;
    losses = [];
    at("samples").textContent = lost > 0 ? `${lost} characters of the text that the model does not know were left out.\n` : "";
  }

  async function sample() {
    const prompt = tokenizer.encode(tokenizer.known("\n").text || tokenizer.known("The").text), ids = [];
    for await (const { id } of writer.generate({ prompt, tokens: 100, params: [0.5, 0, 1, 0, 1], seed: run.step, stop: [] })) ids.push(id);
    at("samples").prepend(`after ${run.step} steps: ${tokenizer.decode(ids).trim()}\n\n`);
  }

  at("start").addEventListener("click", guarded(async () => {
    if (running) { stopped = true; return; }
    [running, stopped] = [true, false];
    at("start").textContent = "Pause";
    at("again").disabled = at("download").disabled = true;
    try {
      if (!run) await prepare();
      const began = performance.now(), from = run.step;
      while (!stopped && !run.ended) {
        losses.push(await run.take());
        const speed = (run.step - from) / (performance.now() - began) * 1000;
        at("training-state").textContent = `step ${run.step} of ${training.rates.length}, loss ${losses.at(-1).toFixed(3)}, ${speed.toFixed(1)} steps a second`;
        if (run.step % 5 === 0 || run.ended) at("curve").innerHTML = curve(losses, training.rates.length, floor);
        if (run.step % 100 === 0 || run.ended) await sample();
        await later();
      }
      at("curve").innerHTML = curve(losses, training.rates.length, floor);
    } finally {
      running = false;
      at("start").textContent = !run ? "Train" : run.ended ? "Trained" : "Go on";
      at("start").disabled = run?.ended ?? false;
      at("again").disabled = at("download").disabled = !run;
    }
  }));
  at("again").addEventListener("click", () => {
    run?.store.free();
    run = undefined;
    at("start").textContent = "Train";
    at("start").disabled = false;
    at("again").disabled = at("download").disabled = true;
    at("curve").textContent = at("samples").textContent = at("training-state").textContent = "";
  });
  at("download").addEventListener("click", guarded(async () => {
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(await run.folder()), download: "model.zip" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }));
}

// What `look.js` shows of a text, by the plans of the model.
export async function inside({ store, manifest: { model }, tokenizer }, programs, ids) {
  const lengths = Object.keys(model.look).map(Number).sort((a, b) => a - b), length = lengths.find(length => length >= ids.length);
  if (length === undefined) throw new Error(`The text has ${ids.length} tokens, and ${lengths.at(-1)} can be looked at: give a shorter one.`);
  if (!programs.has(length)) programs.set(length, await Program.load(store, await json(model.look[length])));
  const program = programs.get(length), count = ids.length, padded = new Uint32Array(length), targets = new Uint32Array(length).fill(0xffffffff);
  padded.set(ids);
  targets.set(ids.slice(1));
  program.write("ids", padded);
  program.write("targets", targets);
  program.run();
  const blocks = [];
  for (let n = 0; n < model.layers; n++) {
    const whole = new Float32Array(await program.read(`attention.${n}`)), heads = whole.length / length ** 2;
    const attention = new Float32Array(heads * count * count);
    for (let row = 0; row < heads * count; row++) {
      const from = (Math.floor(row / count) * length + (row % count)) * length;
      attention.set(whole.subarray(from, from + count), row * count);
    }
    const pairs = await program.read(`best.${n}`), tokens = new Uint32Array(pairs), logs = new Float32Array(pairs), best = tokens.length / length / 2;
    const one = (position, n) => [tokenizer.shown(tokens[2 * (position * best + n)]), logs[2 * (position * best + n) + 1]];
    const likeliest = Array.from({ length: count }, (_, position) => Array.from({ length: best }, (_, n) => one(position, n)));
    const logProbs = [...new Float32Array(await program.read(`log_prob.${n}`)).subarray(0, count)];
    blocks.push({ heads, attention, best: likeliest, logProbs });
  }
  return { tokens: [...ids].map(id => tokenizer.shown(id)), own: false, blocks };
}

function lookPanel(page) {
  const programs = new Map();
  at("look-text").value = page.tokenizer.known("The kind girl found the ball at the park.").text;
  at("look-go").disabled = false;
  at("look-go").addEventListener("click", guarded(async () => {
    const ids = page.tokenizer.prompt(at("look-text").value);
    if (ids.length < 2) throw new Error("Write a text of at least two tokens.");
    at("look-state").textContent = "compiling kernels";
    show(at("inside"), await inside(page, programs, ids));
    at("look-state").textContent = "";
  }));
}

try {
  const page = await begin();
  samplePanel(page);
  trainPanel(page);
  lookPanel(page);
  globalThis.wgpt = page;
} catch (error) {
  at("progress").hidden = true;
  at("state").textContent = "";
  console.error(error);
  fail(error);
}
document.documentElement.dataset.ready = "true";
