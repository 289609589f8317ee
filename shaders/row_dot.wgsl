// row_dot: y = sum of weight * x over each row, a workgroup per row. Reference: src/ops/row_dot.rs
//
//   x, weights (rows, N)    y (rows)
// use: index reduce
const N: u32 = 64u;
const THREADS: u32 = 64u;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> weights: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = workgroup_index(id, count);
    if row >= arrayLength(&y) {
        return;
    }
    var sum = 0.0;
    for (var c = thread; c < N; c += THREADS) {
        sum += weights[row * N + c] * x[row * N + c];
    }
    sum = workgroup_sum(sum, thread);
    if thread == 0u {
        y[row] = sum;
    }
}
