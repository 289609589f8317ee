// global_norm: norm = sqrt(sum of partials), clip = min(1, MAX_NORM / (norm + 1e-6)), and whether the step may be applied.
//
//   partial (PARTIALS)    report (8) u32 bits: loss, norm, clip, 1 + first bad partial, updates, skipped in a row    loss_sum (1)
//
// Non-finite numbers are found by their bits: a compiler may assume that they do not occur. Reference: src/ops/global_norm.rs
// use: reduce
const PARTIALS: u32 = 1u;
const MAX_NORM: f32 = 1.0;
const MICRO_BATCHES: u32 = 1u;
const THREADS: u32 = 64u;

const FINE: u32 = 0u;
const LOSS_BAD: u32 = 0x40000000u;

@group(0) @binding(0) var<storage, read> partial_sums: array<u32>;
@group(0) @binding(1) var<storage, read_write> report: array<u32>;
@group(0) @binding(2) var<storage, read_write> loss_sum: array<u32>;

var<workgroup> first_bad: array<u32, THREADS>;

fn is_bad(bits: u32) -> bool {
    return (bits & 0x7f800000u) == 0x7f800000u;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32) {
    var sum = 0.0;
    var bad = LOSS_BAD;
    for (var i = thread; i < PARTIALS; i += THREADS) {
        if is_bad(partial_sums[i]) {
            bad = min(bad, i + 1u);
        } else {
            sum += bitcast<f32>(partial_sums[i]);
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
    if bad == LOSS_BAD && !is_bad(loss_bits) {
        bad = FINE;
    }
    loss_sum[0] = 0u;
    let norm = sqrt(sum);
    var clip = 1.0;
    if MAX_NORM > 0.0 {
        clip = min(1.0, MAX_NORM / (norm + 1e-6));
    }
    if is_bad(loss_bits) {
        report[0] = loss_bits;
    } else {
        report[0] = bitcast<u32>(bitcast<f32>(loss_bits) / f32(MICRO_BATCHES));
    }
    if bad != FINE && bad != LOSS_BAD {
        report[1] = partial_sums[bad - 1u];
    } else {
        report[1] = bitcast<u32>(norm);
    }
    report[2] = bitcast<u32>(clip);
    report[3] = bad;
    report[4] = report[4] + select(0u, 1u, bad == FINE);
    report[5] = select(report[5] + 1u, 0u, bad == FINE);
}
