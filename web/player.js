// Replays plans on WebGPU. It knows no model: it allocates, compiles, binds and replays what a plan says.

// The bytes of a file of the page; `progress(bytes, of)` hears how much has come. Files whose names tell their contents are kept.
export async function file(name, progress = () => {}) {
  const within = globalThis.WGPT_FILES?.[name];
  if (within !== undefined) {
    const packed = new Blob([Uint8Array.from(atob(within), c => c.charCodeAt(0))]).stream();
    return new Uint8Array(await new Response(packed.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer());
  }
  const lasting = /_[0-9a-f]{16}\./.test(name);
  const kept = lasting ? await caches?.open("wgpt").catch(() => undefined) : undefined;
  const known = await kept?.match(name);
  const answer = known ?? await fetch(name);
  if (!answer.ok) throw new Error(`${name} could not be loaded (${answer.status}): serve the whole folder.`);
  if (kept && !known) kept.put(name, answer.clone()).catch(() => {});
  const of = Number(answer.headers.get("content-length") ?? 0), pieces = [];
  let bytes = 0;
  for (const reader = answer.body.getReader(); ;) {
    const { value, done } = await reader.read();
    if (done) break;
    pieces.push(value);
    progress(bytes += value.length, of);
  }
  const all = new Uint8Array(bytes);
  pieces.reduce((at, piece) => (all.set(piece, at), at + piece.length), 0);
  return all;
}

export const json = async name => JSON.parse(new TextDecoder().decode(await file(name)));

const NAMES = { "shader-f16": "half-precision numbers (f16)", subgroups: "subgroups" };

// A device that has what the plans need; an error says in one sentence what is missing and what would help.
export async function open({ features, limits }) {
  if (!navigator.gpu) {
    const why = globalThis.isSecureContext ? "has no WebGPU" : "offers WebGPU only to pages from https or localhost";
    throw new Error(`This browser ${why}: a current Chrome, Edge, Safari or Firefox has it.`);
  }
  const adapter = await navigator.gpu.requestAdapter({ powerPreference: "high-performance" });
  if (!adapter) throw new Error("WebGPU finds no graphics device here: turn on hardware acceleration in the browser's settings, or try another browser.");
  const missing = features.find(name => !adapter.features.has(name));
  if (missing) throw new Error(`This graphics device has no ${NAMES[missing] ?? missing}: another device, or a page exported with --dtype f32, will do.`);
  const small = Object.keys(limits).find(name => adapter.limits[name] < limits[name]);
  if (small) {
    const mib = bytes => Math.ceil(bytes / 2 ** 20);
    throw new Error(`The model needs ${mib(limits[small])} MiB in one buffer and this device allows ${mib(adapter.limits[small])} MiB (${small}): a smaller model, or a page exported with --dtype q8_0, will do.`);
  }
  const least = { maxBufferSize: 256 << 20, maxStorageBufferBindingSize: 128 << 20 };
  const requiredLimits = Object.fromEntries(Object.keys(limits).filter(name => limits[name] > least[name]).map(name => [name, limits[name]]));
  return new Device(await adapter.requestDevice({ requiredFeatures: features, requiredLimits }), await json("shaders.json"));
}

// A device with the pipelines that were compiled on it.
class Device {
  constructor(gpu, texts) {
    Object.assign(this, { gpu, texts, pipelines: new Map(), lost: undefined });
    gpu.lost.then(({ message }) => { this.lost = message || "The graphics device was lost: load the page again."; });
  }

  // The pipeline of a text whose bindings are of these kinds: u(niform), r(ead), w(ritten).
  pipeline(text, kinds) {
    const key = `${text} ${kinds}`;
    if (!this.pipelines.has(key)) this.pipelines.set(key, this.compile(text, kinds));
    return this.pipelines.get(key);
  }

  async compile(text, kinds) {
    const types = { u: "uniform", r: "read-only-storage", w: "storage" };
    const entry = (kind, binding) => ({ binding, visibility: GPUShaderStage.COMPUTE, buffer: { type: types[kind] } });
    const layout = this.gpu.createBindGroupLayout({ entries: [...kinds].map(entry) });
    const module = this.gpu.createShaderModule({ code: this.texts[text] });
    const pipeline = await this.gpu.createComputePipelineAsync({
      layout: this.gpu.createPipelineLayout({ bindGroupLayouts: [layout] }), compute: { module, entryPoint: "main" },
    });
    return { pipeline, layout };
  }

  buffer(bytes) {
    return this.gpu.createBuffer({ size: Math.max(4, Math.ceil(bytes / 4) * 4), usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST });
  }
}

// States by name, which programs share.
export class Store {
  constructor(device) {
    this.device = device;
    this.places = new Map();
    this.buffers = [];
    this.step = device.gpu.createBuffer({ size: 32, usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST });
  }

  // The buffer of a plan's states and where in it the plan's own begins: states that are stored together are one buffer.
  hold(plan, index) {
    const states = plan.states.filter(state => state.buffer === index);
    const known = states.find(state => this.places.has(state.name));
    if (known) {
      const { buffer, start } = this.places.get(known.name);
      const first = start - known.start;
      const same = states.every(s => this.places.get(s.name)?.buffer === buffer && this.places.get(s.name).start === first + s.start);
      if (!same) throw new Error(`The plans store ${known.name} in different ways: export the page again.`);
      return { buffer, first };
    }
    const buffer = this.device.buffer(plan.buffers[index].bytes);
    this.buffers.push(buffer);
    states.forEach(({ name, start, bytes }) => this.places.set(name, { buffer, start, bytes }));
    return { buffer, first: 0 };
  }

  // Writes a typed array to a state, from a byte on.
  write(name, values, at = 0) {
    const { buffer, start } = this.places.get(name);
    this.device.gpu.queue.writeBuffer(buffer, start + at, values);
  }

  // The bytes of a state.
  read(name) {
    const { buffer, start, bytes } = this.places.get(name);
    return this.fetch(buffer, start, bytes);
  }

  async fetch(from, start, bytes) {
    const { gpu } = this.device, size = Math.ceil(bytes / 4) * 4;
    const staging = gpu.createBuffer({ size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
    const encoder = gpu.createCommandEncoder();
    encoder.copyBufferToBuffer(from, start, staging, 0, size);
    gpu.queue.submit([encoder.finish()]);
    await staging.mapAsync(GPUMapMode.READ).catch(error => { throw new Error(this.device.lost ?? error.message); });
    const values = staging.getMappedRange().slice(0);
    staging.destroy();
    return values;
  }

  free() {
    this.buffers.forEach(buffer => buffer.destroy());
    this.step.destroy();
  }
}

// A plan that is loaded.
export class Program {
  static async load(store, plan, progress = () => {}) {
    const { device } = store, own = [], buffers = plan.buffers.map(({ bytes, state }, index) => {
      if (state) return store.hold(plan, index);
      own.push(device.buffer(bytes));
      return { buffer: own.at(-1), first: 0 };
    });
    store.buffers.push(...own);
    const kernels = plan.segments.flatMap(({ commands }) => commands).filter(({ copy }) => !copy);
    let compiled = 0;
    const pipelines = await Promise.all(kernels.map(async ({ text, bind }) => {
      const kinds = bind.map(([buffer, , , writes]) => (buffer === null ? "u" : writes ? "w" : "r")).join("");
      const made = await device.pipeline(text, kinds);
      progress(compiled += 1, kernels.length);
      return made;
    }));
    const resource = ([index, start, size]) => index === null ? { buffer: store.step } : { buffer: buffers[index].buffer, offset: buffers[index].first + start, size };
    const action = ({ copy, bind, groups }) => {
      if (copy) {
        const [from, to, bytes] = copy;
        return encoder => encoder.copyBufferToBuffer(buffers[from].buffer, buffers[from].first, buffers[to].buffer, buffers[to].first, Math.ceil(bytes / 4) * 4);
      }
      const { pipeline, layout } = pipelines.shift();
      const group = device.gpu.createBindGroup({ layout, entries: bind.map((bound, binding) => ({ binding, resource: resource(bound) })) });
      return { pipeline, group, groups };
    };
    const segments = plan.segments.map(({ name, commands }) => [name, commands.map(action)]);
    return new Program(store, plan, buffers, new Map(segments));
  }

  constructor(store, plan, buffers, segments) {
    Object.assign(this, { store, buffers, segments });
    this.inputs = new Map(plan.inputs.map(tensor => [tensor.name, tensor]));
    this.outputs = new Map(plan.outputs.map(tensor => [tensor.name, tensor]));
  }

  write(name, values) {
    const { buffer, first } = this.buffers[this.inputs.get(name).buffer];
    this.store.device.gpu.queue.writeBuffer(buffer, first, values);
  }

  read(name) {
    const { buffer, bytes } = this.outputs.get(name);
    return this.store.fetch(this.buffers[buffer].buffer, this.buffers[buffer].first, bytes);
  }

  // Replays a segment, the first unless one is named, with the values of the step.
  run({ step = 0, microBatch = 0, seed = 0, learningRate = 0, position = 0, row = 0, growth = 1 } = {}, segment = this.segments.keys().next().value) {
    const { gpu, lost } = this.store.device;
    if (lost) throw new Error(lost);
    const words = new Uint32Array([step, microBatch, seed, 0, position, row, 0, 0]);
    const numbers = new Float32Array(words.buffer);
    [numbers[3], numbers[6]] = [learningRate, growth];
    gpu.queue.writeBuffer(this.store.step, 0, words);
    const encoder = gpu.createCommandEncoder();
    let pass;
    for (const action of this.segments.get(segment)) {
      if (typeof action === "function") {
        pass?.end();
        pass = undefined;
        action(encoder);
        continue;
      }
      pass ??= encoder.beginComputePass();
      pass.setPipeline(action.pipeline);
      pass.setBindGroup(0, action.group);
      pass.dispatchWorkgroups(...action.groups);
    }
    pass?.end();
    gpu.queue.submit([encoder.finish()]);
  }
}
