// Drives the exported demo page in headless Chromium and compares it with what the binary says: see scripts/web.sh.
//
//     node --experimental-websocket scripts/web.mjs FOLDER PICTURES

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { extname, join } from "node:path";

const [folder, pictures] = process.argv.slice(2);
const text = name => readFileSync(join(folder, name), "utf8");
const TYPES = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".json": "application/json", ".bin": "application/octet-stream" };

const server = createServer((request, response) => {
  const path = join(folder, new URL(request.url, "http://localhost").pathname);
  if (!existsSync(path) || !TYPES[extname(path)]) { response.writeHead(404).end(); return; }
  response.writeHead(200, { "Content-Type": TYPES[extname(path)] }).end(readFileSync(path));
});
await new Promise(done => server.listen(0, "127.0.0.1", done));
const origin = `http://localhost:${server.address().port}`;

const wait = ms => new Promise(done => setTimeout(done, ms));
const profile = mkdtempSync(join(tmpdir(), "wgpt-chromium-"));
const chromium = spawn(process.env.CHROMIUM ?? "chromium", [
  "--headless=new", "--no-sandbox", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan", "--disable-quic",
  "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-port=0",
  `--user-data-dir=${profile}`, "about:blank",
], { stdio: "ignore" });

// The browser's debugging protocol.
class Browser {
  static async open() {
    const port = join(profile, "DevToolsActivePort");
    for (let n = 0; !existsSync(port); n++) { assert(n < 300, "Chromium does not start"); await wait(100); }
    await wait(200);
    const [number] = readFileSync(port, "utf8").split("\n");
    const pages = await (await fetch(`http://127.0.0.1:${number}/json/list`)).json();
    const browser = new Browser();
    browser.socket = new WebSocket(pages.find(page => page.type === "page").webSocketDebuggerUrl);
    await new Promise(done => browser.socket.addEventListener("open", done));
    Object.assign(browser, { waiting: new Map(), last: 0 });
    browser.socket.addEventListener("message", ({ data }) => {
      const { id, result, error } = JSON.parse(data);
      browser.waiting.get(id)?.(error ? { failed: error } : result);
    });
    await browser.send("Page.enable");
    return browser;
  }

  send(method, params = {}) {
    const id = ++this.last;
    this.socket.send(JSON.stringify({ id, method, params }));
    return new Promise((done, fail) => this.waiting.set(id, result => (result.failed ? fail(new Error(`${method}: ${result.failed.message}`)) : done(result))));
  }

  async evaluate(expression) {
    const { result, exceptionDetails } = await this.send("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true });
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    return result.value;
  }

  async until(expression, seconds = 400) {
    for (const end = Date.now() + seconds * 1000; Date.now() < end; await wait(100)) if (await this.evaluate(expression)) return;
    const error = await this.evaluate(`document.getElementById("error")?.textContent`);
    throw new Error(`${expression} does not become true: ${error}`);
  }

  async page(url) {
    await this.send("Page.navigate", { url });
    await wait(300);
    await this.until(`document.documentElement.dataset.ready === "true"`, 300);
  }

  async picture(name) {
    for (const [width, scheme] of [[390, "light"], [1280, "light"], [390, "dark"], [1280, "dark"]]) {
      await this.send("Emulation.setDeviceMetricsOverride", { width, height: 900, deviceScaleFactor: 1, mobile: width < 500 });
      await this.send("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: scheme }] });
      await wait(200);
      const wide = await this.evaluate(`document.documentElement.scrollWidth`);
      assert(wide <= width, `${name} is ${wide} wide on a screen of ${width}`);
      const { data } = await this.send("Page.captureScreenshot", { format: "png", captureBeyondViewport: true });
      writeFileSync(join(pictures, `${name}-${width}-${scheme}.png`), Buffer.from(data, "base64"));
    }
  }
}

// The tensors of a safetensors file.
function tensors(path) {
  const bytes = readFileSync(path), size = Number(bytes.readBigUInt64LE(0)), header = JSON.parse(bytes.subarray(8, 8 + size).toString());
  delete header.__metadata__;
  return Object.fromEntries(Object.entries(header).map(([name, { data_offsets: [start, end] }]) => [name, bytes.subarray(8 + size + start, 8 + size + end).toString("base64")]));
}

async function check(browser) {
  await browser.page(`${origin}/page/index.html`);
  const error = await browser.evaluate(`document.getElementById("error").hidden || document.getElementById("error").textContent`);
  assert.equal(error, true);

  // Greedy text is the binary's, to the last character, by the page's own buttons.
  const want = JSON.parse(text("greedy.json"));
  await browser.evaluate(`for (const [id, value] of [["prompt", ${JSON.stringify(want.prompt)}], ["tokens", ${want.ids.length}], ["temperature", 0]]) document.getElementById(id).value = value`);
  await browser.evaluate(`document.getElementById("generate").click()`);
  await browser.until(`document.getElementById("generate").textContent === "Generate" && document.getElementById("text").textContent !== ""`);
  assert.equal(await browser.evaluate(`document.getElementById("text").textContent`), want.prompt + want.text);
  console.log(`greedy text of ${want.ids.length} tokens is the binary's; ${await browser.evaluate(`document.getElementById("speed").textContent`)}`);
  await browser.picture("sample");

  // Ten steps from the same random weights on the same window have the binary's losses.
  const losses = text("run/log.jsonl").trim().split("\n").map(line => JSON.parse(line).loss).filter(loss => loss !== undefined);
  assert.equal(losses.length, 10);
  const got = await browser.evaluate(`(async () => {
    const { Run } = await import("wgpt/train"), { manifest, tokenizer, device } = globalThis.wgpt, weights = ${JSON.stringify(tensors(join(folder, "start/model.safetensors")))};
    const training = { ...manifest.training, rates: Array(10).fill(Math.fround(6e-3)) };
    const run = await Run.load(device, training);
    for (const { name, parts } of training.parameters) {
      const bytes = parts.map(part => Uint8Array.from(atob(weights[part.name]), c => c.charCodeAt(0)));
      run.store.write(name, bytes.length === 1 ? bytes[0] : new Uint8Array(await new Blob(bytes).arrayBuffer()));
    }
    const window = tokenizer.encode(${JSON.stringify(text("window.txt"))}), batch = training.batch, losses = [];
    const rows = from => Uint32Array.from(Array(batch).fill(window.slice(from, from + training.context)).flat());
    for (let n = 0; n < 10; n++) losses.push(await run.take({ ids: rows(0), targets: rows(1) }));
    return losses;
  })()`);
  const off = Math.max(...got.map((loss, n) => Math.abs(loss - losses[n])));
  assert(off < 1e-3, `${got} for ${losses}`);
  console.log(`ten losses from ${losses[0].toFixed(3)} to ${losses[9].toFixed(3)} differ by up to ${off.toExponential(1)}`);

  // What is inside is what \`wgpt inspect\` tells.
  const inspected = JSON.parse(text("inside.html").match(/<script type="application\/json" id="data">(.*?)<\/script>/s)[1]);
  await browser.evaluate(`document.getElementById("tab-look").click(); document.getElementById("look-text").value = "The kind girl found the ball."; document.getElementById("look-go").click()`);
  await browser.until(`document.querySelectorAll("#inside .heads button").length > 0`);
  const inside = await browser.evaluate(`(async () => {
    const { inside } = await import("wgpt/app"), found = await inside(globalThis.wgpt, new Map(), ${JSON.stringify(inspected.ids)});
    return found.blocks.map(block => ({ ...block, attention: [...block.attention] }));
  })()`);
  let farthest = 0;
  for (const [n, block] of inspected.blocks.entries()) {
    const weights = new Uint16Array(new Uint8Array(Buffer.from(block.attention, "base64")).buffer);
    weights.forEach((w, i) => { farthest = Math.max(farthest, Math.abs(w / 65535 - inside[n].attention[i])); });
    block.logProbs.forEach((p, i) => { farthest = Math.max(farthest, Math.abs(p - inside[n].logProbs[i])); });
  }
  assert(farthest < 1e-4, `attention or log-probabilities differ by ${farthest}`);
  console.log(`attention and log-probabilities of ${inspected.tokens.length} tokens differ by up to ${farthest.toExponential(1)}`);
  await browser.picture("look");

  // The page's own training: it learns, can be paused, and its model can be taken away.
  await browser.evaluate(`document.getElementById("tab-train").click(); document.getElementById("start").click()`);
  await browser.until(`/step ([3-9]|[1-9][0-9])/.test(document.getElementById("training-state").textContent)`, 400);
  await browser.evaluate(`document.getElementById("start").click()`);
  await browser.until(`document.getElementById("start").textContent === "Go on"`);
  const state = await browser.evaluate(`document.getElementById("training-state").textContent`);
  // A few steps, because they take seconds each on this device; that losses fall is checked above.
  assert(Number(state.match(/loss ([0-9.]+)/)[1]) < 4.5, state);
  console.log(state);
  await browser.picture("train");
  const zip = await browser.evaluate(`new Promise(done => {
    URL.createObjectURL = blob => { const reader = new FileReader(); reader.onload = () => done(reader.result.split(",")[1]); reader.readAsDataURL(blob); return "#"; };
    document.getElementById("download").click();
  })`);
  writeFileSync(join(folder, "model.zip"), Buffer.from(zip, "base64"));

  // The page in one file, without a server; and a browser without WebGPU is told so.
  await browser.page(`file://${join(folder, "page.html")}`);
  assert.equal(await browser.evaluate(`document.getElementById("generate").disabled`), false);
  await browser.send("Page.addScriptToEvaluateOnNewDocument", { source: `Object.defineProperty(navigator, "gpu", { value: undefined })` });
  await browser.page(`${origin}/page/index.html`);
  const why = await browser.evaluate(`document.getElementById("error").textContent`);
  assert.match(why, /has no WebGPU/);
  await browser.send("Page.navigate", { url: `${origin}/inside.html` });
  await browser.until(`document.querySelectorAll(".heads button").length > 0`);
  await browser.picture("inspect");
}

let failure;
try {
  const browser = await Browser.open();
  await check(browser).catch(error => { failure = error; });
  browser.socket.close();
} catch (error) {
  failure = error;
}
chromium.kill();
await wait(500);
rmSync(profile, { recursive: true, force: true });
if (failure) console.error(failure);
process.exit(failure ? 1 : 0);
