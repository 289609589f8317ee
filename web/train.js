// Training from scratch: micro-batches of windows of a text go through the plan of a step.

import { Program, Store, json } from "wgpt/player";

// Random numbers from 0 to 1 from a seed: mulberry32.
export function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

// Initial values of a parameter.
function initial({ length, initial: [kind, size] }, next) {
  const normal = () => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next()) * size;
  const draw = { zeros: () => 0, ones: () => 1, normal, uniform: () => (2 * next() - 1) * size }[kind];
  return Float32Array.from({ length }, draw);
}

export class Run {
  // `training` is that of the manifest.
  static async load(device, training, progress) {
    const run = Object.assign(new Run(), { training, store: new Store(device), step: 0, next: random(training.seed) });
    run.program = await Program.load(run.store, await json(training.plan), progress);
    training.parameters.forEach(parameter => run.store.write(parameter.name, initial(parameter, run.next)));
    return run;
  }

  // Sets the tokens to learn from.
  learnFrom(ids) {
    if (ids.length <= this.training.context) throw new Error(`The text has ${ids.length} tokens and training needs more than ${this.training.context}: give a longer one.`);
    this.ids = Uint32Array.from(ids);
  }

  // One micro-batch of random windows: inputs, and targets that are one token later.
  batch() {
    const { batch, context } = this.training, ids = new Uint32Array(batch * context), targets = new Uint32Array(batch * context);
    for (let row = 0; row < batch; row++) {
      const start = Math.floor(this.next() * (this.ids.length - context));
      ids.set(this.ids.subarray(start, start + context), row * context);
      targets.set(this.ids.subarray(start + 1, start + 1 + context), row * context);
    }
    return { ids, targets };
  }

  get ended() { return this.step >= this.training.rates.length; }

  // Takes a step; its loss (nats per token).
  async take({ ids, targets } = this.batch()) {
    const { rates, seed, report } = this.training, values = { step: this.step, microBatch: this.step, seed, learningRate: rates[this.step] };
    this.program.write("ids", ids);
    this.program.write("targets", targets);
    this.program.run(values, "accumulate");
    this.program.run(values, "update");
    this.step += 1;
    const [loss] = new Float32Array(await this.store.read(report));
    if (!Number.isFinite(loss)) throw new Error("The loss is no finite number: training has diverged; begin again.");
    return loss;
  }

  // The model as a folder that wgpt loads, in a zip file.
  async folder() {
    const { parameters, config, tokenizer } = this.training, header = {}, pieces = [];
    let at = 0;
    for (const { name, parts } of parameters) {
      const values = new Uint8Array(await this.store.read(name));
      let start = 0;
      for (const part of parts) {
        const bytes = 4 * part.dims.reduce((a, b) => a * b, 1);
        header[part.name] = { dtype: "F32", shape: part.dims, data_offsets: [at, at + bytes] };
        pieces.push(values.subarray(start, start + bytes));
        [at, start] = [at + bytes, start + bytes];
      }
    }
    let head = JSON.stringify(header);
    head += " ".repeat((8 - (head.length % 8)) % 8);
    const size = new Uint8Array(8);
    new DataView(size.buffer).setBigUint64(0, BigInt(head.length), true);
    const text = string => new TextEncoder().encode(string);
    return zip({ "model/config.json": [text(config)], "model/tokenizer.json": [text(tokenizer)], "model/model.safetensors": [size, text(head), ...pieces] });
  }
}

const CRC = Uint32Array.from({ length: 256 }, (_, n) => { for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1; return n; });

// A zip file without compression; each file is a list of pieces.
export function zip(files) {
  const list = [], directory = [], text = string => new TextEncoder().encode(string);
  let at = 0;
  for (const [name, pieces] of Object.entries(files)) {
    let crc = ~0, size = 0;
    for (const piece of pieces) {
      size += piece.length;
      for (const byte of piece) crc = CRC[(crc ^ byte) & 255] ^ (crc >>> 8);
    }
    const entry = new DataView(new ArrayBuffer(26));
    [[0, 20], [2, 0x800], [4, 0], [6, 0], [8, 0x21]].forEach(([place, value]) => entry.setUint16(place, value, true));
    [[10, ~crc >>> 0], [14, size], [18, size]].forEach(([place, value]) => entry.setUint32(place, value, true));
    entry.setUint16(22, text(name).length, true);
    const common = new Uint8Array(entry.buffer), word = value => new Uint8Array(new Uint32Array([value]).buffer);
    const local = [text("PK\x03\x04"), common, text(name), ...pieces];
    directory.push(text("PK\x01\x02"), Uint8Array.of(20, 0), common, new Uint8Array(10), word(at).slice(0, 4), text(name));
    list.push(...local);
    at += 30 + text(name).length + size;
  }
  const bytes = directory.reduce((sum, piece) => sum + piece.length, 0), end = new DataView(new ArrayBuffer(22)), count = Object.keys(files).length;
  [[0, 0x06054b50], [12, bytes], [16, at]].forEach(([place, value]) => end.setUint32(place, value, true));
  [8, 10].forEach(place => end.setUint16(place, count, true));
  return new Blob([...list, ...directory, end.buffer], { type: "application/zip" });
}

// The curve of losses as an SVG, with the least loss that is possible where it is known.
export function curve(losses, total, floor) {
  const [width, height, left, bottom] = [640, 260, 40, 28], most = Math.max(4, ...losses.slice(0, 1));
  const x = step => left + (width - left - 8) * (step / Math.max(1, total)), y = loss => 8 + (height - bottom - 8) * (1 - loss / most);
  // A mean over neighbours, so that the line shows the way and not the noise.
  const smooth = losses.map((_, n) => { const near = losses.slice(Math.max(0, n - 9), n + 1); return near.reduce((a, b) => a + b) / near.length; });
  const line = values => values.map((loss, n) => `${x(n + 1).toFixed(1)},${y(Math.min(loss, most)).toFixed(1)}`).join(" ");
  const tick = loss => `<text x="${left - 6}" y="${y(loss) + 4}" text-anchor="end">${loss}</text><line x1="${left}" x2="${width - 8}" y1="${y(loss)}" y2="${y(loss)}" stroke="var(--line)"/>`;
  const ticks = Array.from({ length: Math.floor(most) + 1 }, (_, loss) => tick(loss)).join("");
  const least = floor === undefined ? "" : `<line x1="${left}" x2="${width - 8}" y1="${y(floor)}" y2="${y(floor)}" stroke="rgb(var(--two))" stroke-dasharray="5 4"/><text x="${width - 8}" y="${y(floor) - 5}" text-anchor="end">entropy of the text, ${floor.toFixed(3)}</text>`;
  return `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="loss by step" font-size="12" fill="var(--faint)">${ticks}
    <polyline points="${line(losses)}" fill="none" stroke="rgba(var(--one), .3)"/><polyline points="${line(smooth)}" fill="none" stroke="rgb(var(--one))" stroke-width="2"/>
    ${least}<text x="${left}" y="${height - 6}">step</text><text x="${width - 8}" y="${height - 6}" text-anchor="end">${total}</text></svg>`;
}
