// global_norm: norm = sqrt(sum of squares), clip = min(1, MAX_NORM / (norm + 1e-6)), and whether the step may be applied.
//
//   squares (SUMS, 2) u32 bits: sum, place    loss_sum (1)
//   report (8) u32 bits: loss, norm, clip, 1 + place of what is not finite, updates, skipped in a row, loss scale, steady steps
//
// With a loss scale, which gradients carry as a factor, the norm is divided by it, and so is what they are multiplied by, clip.
// The scale is halved where a gradient is not finite and doubled after GROW_AFTER steps that were fine.
// Micro-batches are divided by their number where it is largest, and what this step has less of them, by the step's growth.
// Non-finite numbers are found by their bits: a compiler may assume that they do not occur. Reference: src/ops/global_norm.rs
// use: reduce step
const SUMS: u32 = 1u;
const PLACES: u32 = 256u;
const MAX_NORM: f32 = 1.0;
const MICRO_BATCHES: u32 = 1u;
const THREADS: u32 = 64u;
// Steps after which the loss scale doubles; 0 where there is none.
const GROW_AFTER: u32 = 0u;
const INITIAL: f32 = 65536.0;
const LEAST: f32 = 1.0;
const MOST: f32 = 16777216.0;

const FINE: u32 = 0u;
const LOSS_BAD: u32 = 0x40000000u;

@group(0) @binding(0) var<storage, read> squares: array<vec2<u32>>;
@group(0) @binding(1) var<storage, read_write> report: array<u32>;
@group(0) @binding(2) var<storage, read_write> loss_sum: array<u32>;
@group(0) @binding(3) var<uniform> step: Step;

var<workgroup> first_bad: array<u32, THREADS>;

fn is_bad(bits: u32) -> bool {
    return (bits & 0x7f800000u) == 0x7f800000u;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32) {
    var sum = 0.0;
    var bad = SUMS;
    for (var i = thread; i < SUMS; i += THREADS) {
        if is_bad(squares[i].x) {
            bad = min(bad, i);
        } else {
            sum += bitcast<f32>(squares[i].x);
        }
    }
    sum = workgroup_sum(sum, thread);
    first_bad[thread] = bad;
    workgroupBarrier();
    if thread != 0u {
        return;
    }
    for (var i = 0u; i < THREADS; i++) {
        bad = min(bad, first_bad[i]);
    }
    let loss_bits = loss_sum[0];
    loss_sum[0] = 0u;
    if is_bad(loss_bits) {
        report[0] = loss_bits;
    } else {
        report[0] = bitcast<u32>(bitcast<f32>(loss_bits) / f32(MICRO_BATCHES) * step.growth);
    }
    var scale = 1.0;
    if GROW_AFTER > 0u && bitcast<f32>(report[6]) > 0.0 {
        scale = bitcast<f32>(report[6]);
    } else if GROW_AFTER > 0u {
        scale = INITIAL;
    }
    let norm = sqrt(sum) / scale * step.growth;
    report[1] = bitcast<u32>(norm);
    var clip = 1.0;
    if MAX_NORM > 0.0 {
        clip = min(1.0, MAX_NORM / (norm + 1e-6));
    }
    report[2] = bitcast<u32>(clip / scale * step.growth);
    report[3] = FINE;
    if bad < SUMS {
        report[1] = squares[bad].x;
        report[3] = 1u + bad * PLACES + squares[bad].y;
    } else if is_bad(loss_bits) {
        report[3] = LOSS_BAD;
    }
    let fine = report[3] == FINE;
    report[4] = report[4] + select(0u, 1u, fine);
    report[5] = select(report[5] + 1u, 0u, fine);
    if GROW_AFTER > 0u {
        let overflow = bad < SUMS && !is_bad(loss_bits) && scale > LEAST;
        let steady = select(0u, report[7] + 1u, fine);
        let grows = steady >= GROW_AFTER;
        if overflow {
            scale = max(0.5 * scale, LEAST);
            report[5] = 0u;
        } else if grows {
            scale = min(2.0 * scale, MOST);
        }
        report[6] = bitcast<u32>(scale);
        report[7] = select(steady, 0u, grows);
    }
}
