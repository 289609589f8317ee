// A row's logits, and the largest of the first V with the sum of exp(logit - largest). What is not finite, in a broken
// model, counts as lower than anything.
// use: reduce
@group(0) @binding(0) var<storage, read> logits: array<u32>; // (B, COLUMNS), the bits

const LOWEST: f32 = -3e38;

fn logit(row: u32, i: u32) -> f32 {
    let bits = logits[row * COLUMNS + i];
    return select(bitcast<f32>(bits), LOWEST, (bits & 0x7f800000u) == 0x7f800000u);
}

fn largest_and_sum(row: u32, thread: u32) -> vec2<f32> {
    var largest = LOWEST;
    for (var i = thread; i < V; i += THREADS) {
        largest = max(largest, logit(row, i));
    }
    largest = workgroup_max(largest, thread);
    var sum = 0.0;
    for (var i = thread; i < V; i += THREADS) {
        sum += exp(logit(row, i) - largest);
    }
    return vec2<f32>(largest, workgroup_sum(sum, thread));
}
