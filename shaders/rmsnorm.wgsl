// rmsnorm: y = x * rstd * weight, rstd = 1 / sqrt(mean(x^2) + EPS), one workgroup per group of C columns.
//
//   x, y (ROWS, GROUPS, C)    weight (C)    rstds (ROWS, COUNT), kept for backward
//
// Of a row's groups, COUNT from FIRST on are normalised, the others are copied. Reference: src/ops/rmsnorm.rs
// use: index reduce
const ROWS: u32 = 1u;
const GROUPS: u32 = 1u;
const FIRST: u32 = 0u;
const COUNT: u32 = 1u;
const C: u32 = 64u;
const EPS: f32 = 1e-5;
const THREADS: u32 = 64u;

// Vec4s of a group.
const CV: u32 = C / 4u;
const_assert C % 4u == 0u;

// Element types of the operands.
alias X_TYPE = f32;
alias Y_TYPE = f32;

@group(0) @binding(0) var<storage, read> x: array<vec4<X_TYPE>>;
@group(0) @binding(1) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<Y_TYPE>>;
@group(0) @binding(3) var<storage, read_write> rstds: array<f32>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let group = workgroup_index(id, count);
    if group >= ROWS * GROUPS {
        return;
    }
    // Below FIRST this wraps to a number beyond any group.
    let normalised = group % GROUPS - FIRST;
    if normalised >= COUNT {
        for (var c = thread; c < CV; c += THREADS) {
            y[group * CV + c] = vec4<Y_TYPE>(x[group * CV + c]);
        }
        return;
    }
    var squares = 0.0;
    for (var c = thread; c < CV; c += THREADS) {
        let value = vec4<f32>(x[group * CV + c]);
        squares += dot(value, value);
    }
    let rstd = inverseSqrt(workgroup_sum(squares, thread) / f32(C) + EPS);
    for (var c = thread; c < CV; c += THREADS) {
        y[group * CV + c] = vec4<Y_TYPE>(vec4<f32>(x[group * CV + c]) * rstd * weight[c]);
    }
    if thread == 0u {
        rstds[group / GROUPS * COUNT + normalised] = rstd;
    }
}
