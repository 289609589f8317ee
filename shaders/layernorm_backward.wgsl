// layernorm_backward: dx = rstd * (g - mean(g) - n * mean(g * n)), with n = (x - mean) * rstd and g = dy * weight; or dx += it.
//
//   x, dy, dx (ROWS, C)    weight (C)    stats (ROWS, 2): mean, rstd
//
// One workgroup per row; both means in one pass. Reference: src/ops/layernorm.rs
// use: index reduce
const ROWS: u32 = 1u;
const C: u32 = 64u;
const THREADS: u32 = 64u;
const ACCUMULATE: bool = false;

// Vec4s of a row.
const CV: u32 = C / 4u;
const_assert C % 4u == 0u;

// Element types of the operands.
alias X_TYPE = f32;
alias Y_TYPE = f32;

@group(0) @binding(0) var<storage, read> x: array<vec4<X_TYPE>>;
@group(0) @binding(1) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> stats: array<f32>;
@group(0) @binding(3) var<storage, read> dy: array<vec4<Y_TYPE>>;
@group(0) @binding(4) var<storage, read_write> dx: array<vec4<X_TYPE>>;

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
    let mean = stats[2u * row];
    let rstd = stats[2u * row + 1u];
    var sum_g = 0.0;
    var sum_gn = 0.0;
    for (var c = thread; c < CV; c += THREADS) {
        let g = vec4<f32>(dy[row * CV + c]) * weight[c];
        sum_g += dot(g, vec4<f32>(1.0));
        sum_gn += dot(g, (vec4<f32>(x[row * CV + c]) - mean) * rstd);
    }
    let mean_g = workgroup_sum(sum_g, thread) / f32(C);
    let mean_gn = workgroup_sum(sum_gn, thread) / f32(C);
    for (var c = thread; c < CV; c += THREADS) {
        let n = (vec4<f32>(x[row * CV + c]) - mean) * rstd;
        let value = rstd * (vec4<f32>(dy[row * CV + c]) * weight[c] - mean_g - n * mean_gn);
        if ACCUMULATE {
            dx[row * CV + c] = vec4<X_TYPE>(vec4<f32>(dx[row * CV + c]) + value);
        } else {
            dx[row * CV + c] = vec4<X_TYPE>(value);
        }
    }
}
