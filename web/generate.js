// Texts from a model: a prompt fills the cache, and every further token is one replay of the decode plan.

import { Program, Store, file, json } from "wgpt/player";

// A store with the weights of the page's model.
export async function withWeights(device, { states }, programs, progress = () => {}) {
  const store = new Store(device);
  await programs(store);
  const names = [...new Set(states.flatMap(({ parts }) => parts.map(([name]) => name)))], files = new Map();
  for (const [n, name] of names.entries()) {
    files.set(name, await file(name, (bytes, of) => progress((n + bytes / Math.max(of, bytes)) / names.length)));
  }
  for (const { name, parts } of states) {
    let at = 0;
    for (const [piece, start, bytes] of parts) {
      store.write(name, files.get(piece).subarray(start, start + bytes), at);
      at += bytes;
    }
  }
  return store;
}

export class Generator {
  // `model` is that of the manifest.
  static async load(store, model, progress) {
    const generator = new Generator();
    Object.assign(generator, { store, model, prefills: new Map(), windows: Object.keys(model.prefill).map(Number).sort((a, b) => a - b) });
    generator.decode = await Program.load(store, await json(model.decode), progress);
    return generator;
  }

  async prefill(ids) {
    if (ids.length === 0) return;
    const window = this.windows.find(window => window >= ids.length);
    if (!this.prefills.has(window)) this.prefills.set(window, Program.load(this.store, await json(this.model.prefill[window])));
    const program = await this.prefills.get(window);
    const padded = new Uint32Array(window);
    padded.set(ids);
    program.write("ids", padded);
    program.run();
  }

  // Up to `tokens` tokens after `prompt`, each with its log-probability, until one of `stop`, which is left out; `params` as the op
  // next_token takes them.
  async *generate({ prompt, tokens, params, seed, stop }) {
    const { store, model: { names, context, vocabulary, seen_words }, decode } = this;
    const before = prompt.slice(0, -1), kept = before.slice(-(context - 1)), text = [...prompt];
    await this.prefill(kept);
    const seen = new Uint32Array(seen_words);
    for (const id of before) if (id < vocabulary) seen[id >>> 5] |= 1 << (id & 31);
    const word = value => new Uint32Array([value]);
    store.write(names.seen, seen);
    store.write(names.ids, word(prompt.at(-1)));
    store.write(names.positions, word(kept.length));
    store.write(names.seeds, word(seed));
    store.write(names.params, new Float32Array(params));
    for (let n = 0, position = kept.length; n < tokens; n++, position++) {
      if (position === context) {
        // The cache is full: the last half of the text is read again, from position 0.
        position = context >>> 1;
        const last = text.slice(0, -1).slice(-position);
        await this.prefill(last);
        store.write(names.positions, word(position));
      }
      decode.run();
      const report = await store.read(names.report);
      const [id] = new Uint32Array(report), [, logProbability] = new Float32Array(report);
      if (!Number.isFinite(logProbability)) throw new Error("The model's probabilities are no finite numbers: it is damaged, or has diverged.");
      if (stop.includes(id)) return;
      text.push(id);
      yield { id, logProbability };
    }
  }
}
