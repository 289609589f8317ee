// A row's logits, and the largest of the first V with the sum of exp(logit - largest). What is not finite, in a broken
// model, counts as lower than anything, and makes a third number 1: no probability may be told of such a row.
// use: reduce
@group(0) @binding(0) var<storage, read> logits: array<u32>; // (B, COLUMNS), the bits

const LOWEST: f32 = -3e38;

fn is_finite(row: u32, i: u32) -> bool {
    return (logits[row * COLUMNS + i] & 0x7f800000u) != 0x7f800000u;
}

fn logit(row: u32, i: u32) -> f32 {
    return select(LOWEST, bitcast<f32>(logits[row * COLUMNS + i]), is_finite(row, i));
}

// The bits of a log-probability, or of a NaN where the row is broken.
fn told(log_probability: f32, broken: f32) -> u32 {
    return select(bitcast<u32>(log_probability), 0x7fc00000u, broken > 0.0);
}

fn largest_and_sum(row: u32, thread: u32) -> vec3<f32> {
    var largest = LOWEST;
    var broken = 0.0;
    for (var i = thread; i < V; i += THREADS) {
        largest = max(largest, logit(row, i));
        broken = select(1.0, broken, is_finite(row, i));
    }
    broken = workgroup_max(broken, thread);
    largest = workgroup_max(largest, thread);
    var sum = 0.0;
    for (var i = thread; i < V; i += THREADS) {
        sum += exp(logit(row, i) - largest);
    }
    return vec3<f32>(largest, workgroup_sum(sum, thread), broken);
}
