// rmsnorm_backward: dx = rstd * (g - n * mean(g * n)), with n = x * rstd and g = dy * weight; or dx += it.
//
//   x, dy, dx (ROWS, GROUPS, C)    weight (C)    rstds (ROWS, COUNT)
//
// One workgroup per group. Groups that were copied pass dy through. Reference: src/ops/rmsnorm.rs
// use: index reduce
const ROWS: u32 = 1u;
const GROUPS: u32 = 1u;
const FIRST: u32 = 0u;
const COUNT: u32 = 1u;
const C: u32 = 64u;
const THREADS: u32 = 64u;
const ACCUMULATE: bool = false;

// Vec4s of a group.
const CV: u32 = C / 4u;
const_assert C % 4u == 0u;

// Element types of the operands.
alias X_TYPE = f32;
alias Y_TYPE = f32;

@group(0) @binding(0) var<storage, read> x: array<vec4<X_TYPE>>;
@group(0) @binding(1) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> rstds: array<f32>;
@group(0) @binding(3) var<storage, read> dy: array<vec4<Y_TYPE>>;
@group(0) @binding(4) var<storage, read_write> dx: array<vec4<X_TYPE>>;

fn store(i: u32, value: vec4<f32>) {
    if ACCUMULATE {
        dx[i] = vec4<X_TYPE>(vec4<f32>(dx[i]) + value);
    } else {
        dx[i] = vec4<X_TYPE>(value);
    }
}

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
            store(group * CV + c, vec4<f32>(dy[group * CV + c]));
        }
        return;
    }
    let rstd = rstds[group / GROUPS * COUNT + normalised];
    var sum = 0.0;
    for (var c = thread; c < CV; c += THREADS) {
        sum += dot(vec4<f32>(dy[group * CV + c]) * weight[c], vec4<f32>(x[group * CV + c]) * rstd);
    }
    let mean_gn = workgroup_sum(sum, thread) / f32(C);
    for (var c = thread; c < CV; c += THREADS) {
        let n = vec4<f32>(x[group * CV + c]) * rstd;
        store(group * CV + c, rstd * (vec4<f32>(dy[group * CV + c]) * weight[c] - n * mean_gn));
    }
}
