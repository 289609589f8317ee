// report_scalars: report[FIRST + i] = sums[i] / MICRO_BATCHES; sums[i] = 0, a thread per number. Reference: src/ops/scalars.rs
//
//   report (8 + N), in place    sums (N), in place
const N: u32 = 1u;
const FIRST: u32 = 8u;
const MICRO_BATCHES: u32 = 1u;

@group(0) @binding(0) var<storage, read_write> report: array<f32>;
@group(0) @binding(1) var<storage, read_write> sums: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) i: u32) {
    if i < N {
        report[FIRST + i] = sums[i] / f32(MICRO_BATCHES);
        sums[i] = 0.0;
    }
}
