// report_scalars: report[FIRST + i] = sums[i] / MICRO_BATCHES * the step's growth; sums[i] = 0, a thread per number.
// Reference: src/ops/scalars.rs
//
//   report (8 + N), in place    sums (N), in place
// use: step
const N: u32 = 1u;
const FIRST: u32 = 8u;
const MICRO_BATCHES: u32 = 1u;

@group(0) @binding(0) var<storage, read_write> report: array<f32>;
@group(0) @binding(1) var<storage, read_write> sums: array<f32>;
@group(0) @binding(2) var<uniform> step: Step;

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) i: u32) {
    if i < N {
        report[FIRST + i] = sums[i] / f32(MICRO_BATCHES) * step.growth;
        sums[i] = 0.0;
    }
}
