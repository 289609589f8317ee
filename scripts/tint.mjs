// Compiles every .wgsl file of a folder with Tint, Chromium's WGSL compiler, on Dawn's null backend, which runs nothing.
//
//     node scripts/tint.mjs FOLDER        (scripts/tint.sh makes the folder and installs Dawn)
//
// Fails where a shader does not compile. Shaders with cooperative matrices, which WebGPU has not, are counted apart; so are pipelines
// that need larger limits than the null backend offers.

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { createRequire } from "node:module";

const require = createRequire(join(process.env.DAWN ?? process.cwd(), "package.json"));
const { create, globals } = require("webgpu");
Object.assign(globalThis, globals);

const folder = process.argv[2];
// Kept to the end: a device whose instance was collected hangs.
const gpu = create(["backend=null"]);
const adapter = await gpu.requestAdapter();
const requiredFeatures = ["shader-f16", "subgroups"].filter(name => adapter.features.has(name));
const names = ["maxComputeWorkgroupStorageSize", "maxComputeInvocationsPerWorkgroup", "maxComputeWorkgroupSizeX", "maxStorageBuffersPerShaderStage"];
const requiredLimits = Object.fromEntries(names.map(name => [name, adapter.limits[name]]));
const device = await adapter.requestDevice({ requiredFeatures, requiredLimits });

const counts = { compiled: 0, cooperative: 0, large: 0 }, failures = [];
for (const file of readdirSync(folder).filter(name => name.endsWith(".wgsl")).sort()) {
  let code = readFileSync(join(folder, file), "utf8");
  if (code.includes("wgpu_cooperative_matrix")) { counts.cooperative += 1; continue; }
  // naga has no such line yet: the player of a browser adds it, too.
  if (/\bsubgroup[A-Z]/.test(code) && !code.includes("enable subgroups;")) code = "enable subgroups;\n" + code;
  const module = device.createShaderModule({ code });
  const { messages } = await module.getCompilationInfo();
  const error = messages.find(message => message.type === "error");
  if (error) { failures.push(`${file}:${error.lineNum}: ${error.message}`); continue; }
  device.pushErrorScope("validation");
  try {
    await device.createComputePipelineAsync({ layout: "auto", compute: { module, entryPoint: "main" } });
    counts.compiled += 1;
  } catch (why) {
    if (/workgroup (storage|size)|workgroup_size/i.test(why.message)) counts.large += 1;
    else failures.push(`${file}: ${why.message}`);
  }
  await device.popErrorScope();
}
console.log(`${counts.compiled} compiled; ${counts.large} too large for these limits, ${counts.cooperative} with cooperative matrices`);
failures.forEach(failure => console.error(failure));
// Dawn's threads would keep the process.
process.exit(failures.length || !counts.compiled ? 1 : 0);
