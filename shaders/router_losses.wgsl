// router_losses: loss = BALANCE * E * sum over e of choices[e] * probabilities[e] / TOKENS^2 + Z * squares / TOKENS, and
// slopes[e] = BALANCE * E * choices[e] / TOKENS^2, kept for backward. One workgroup. Reference: src/ops/router_losses.rs
//
//   sums (STRIPS, 2E + 1): probabilities, choices, squares    loss (1)    slopes (E)
const STRIPS: u32 = 1u;
const E: u32 = 8u;
const TOKENS: u32 = 256u;
const BALANCE: f32 = 0.01;
const Z: f32 = 0.001;
const THREADS: u32 = 64u;

const WIDTH: u32 = 2u * E + 1u;
const SCALE: f32 = BALANCE * f32(E) / f32(TOKENS) / f32(TOKENS);

@group(0) @binding(0) var<storage, read> sums: array<f32>;
@group(0) @binding(1) var<storage, read_write> loss: array<f32>;
@group(0) @binding(2) var<storage, read_write> slopes: array<f32>;

var<workgroup> totals: array<f32, WIDTH>;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32) {
    for (var i = thread; i < WIDTH; i += THREADS) {
        var sum = 0.0;
        for (var strip = 0u; strip < STRIPS; strip++) {
            sum += sums[strip * WIDTH + i];
        }
        totals[i] = sum;
    }
    workgroupBarrier();
    for (var e = thread; e < E; e += THREADS) {
        slopes[e] = SCALE * totals[E + e];
    }
    if thread == 0u {
        var sum = 0.0;
        for (var e = 0u; e < E; e++) {
            sum += totals[E + e] * totals[e];
        }
        loss[0] = SCALE * sum + Z / f32(TOKENS) * totals[2u * E];
    }
}
