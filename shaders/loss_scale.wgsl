// loss_scale: seed = FACTOR * the loss scale of a report, INITIAL where that is not set yet. Reference: src/ops/loss_scale.rs
//
//   report (words)    seed (1)
const FACTOR: f32 = 1.0;
const WORD: u32 = 6u;
const INITIAL: f32 = 65536.0;

@group(0) @binding(0) var<storage, read> report: array<f32>;
@group(0) @binding(1) var<storage, read_write> seed: array<f32>;

@compute @workgroup_size(1)
fn main() {
    seed[0] = FACTOR * select(INITIAL, report[WORD], report[WORD] > 0.0);
}
