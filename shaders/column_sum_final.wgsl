// column_sum_final: y[c] = sum of partial[s, c] over the strips s, or y[c] += it. Reference: src/ops/column_sum.rs
//
//   partial (STRIPS, C)    y (C)
// use: index
const STRIPS: u32 = 1u;
const C: u32 = 64u;
const ACCUMULATE: bool = false;

@group(0) @binding(0) var<storage, read> partial_sums: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let column = workgroup_index(id, count) * 64u + thread;
    if column >= C {
        return;
    }
    var sum = 0.0;
    for (var strip = 0u; strip < STRIPS; strip++) {
        sum += partial_sums[strip * C + column];
    }
    if ACCUMULATE {
        y[column] += sum;
    } else {
        y[column] = sum;
    }
}
