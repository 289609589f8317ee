// layernorm: y = (x - mean) * rstd * weight + bias, one workgroup per row.
//
//   x, y (ROWS, C)    weight, bias (C)    stats (ROWS, 2): mean, rstd, kept for backward
//
// Two passes over the row: E[x^2] - E[x]^2 in one pass cancels badly. Reference: src/ops/layernorm.rs
// use: index reduce
const ROWS: u32 = 1u;
const C: u32 = 64u;
const EPS: f32 = 1e-5;
const THREADS: u32 = 64u;

// Vec4s of a row.
const CV: u32 = C / 4u;
const_assert C % 4u == 0u;

// Element types of the operands.
alias X_TYPE = f32;
alias Y_TYPE = f32;

@group(0) @binding(0) var<storage, read> x: array<vec4<X_TYPE>>;
@group(0) @binding(1) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<Y_TYPE>>;
@group(0) @binding(4) var<storage, read_write> stats: array<f32>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = workgroup_index(id, count);
    if row >= ROWS {
        return;
    }
    var sums = vec4<f32>();
    for (var c = thread; c < CV; c += THREADS) {
        sums += vec4<f32>(x[row * CV + c]);
    }
    let mean = workgroup_sum((sums.x + sums.y) + (sums.z + sums.w), thread) / f32(C);
    var squares = 0.0;
    for (var c = thread; c < CV; c += THREADS) {
        let d = vec4<f32>(x[row * CV + c]) - mean;
        squares += dot(d, d);
    }
    let rstd = inverseSqrt(workgroup_sum(squares, thread) / f32(C) + EPS);
    for (var c = thread; c < CV; c += THREADS) {
        y[row * CV + c] = vec4<Y_TYPE>((vec4<f32>(x[row * CV + c]) - mean) * rstd * weight[c] + bias[c]);
    }
    if thread == 0u {
        stats[2u * row] = mean;
        stats[2u * row + 1u] = rstd;
    }
}
