// combine_backward: dx[place] = weight * dy[token], over x in place, and dweights[choice] = x[place] . dy[token]; one workgroup
// per place. Reference: src/ops/combine.rs
//
//   order (ROWS) u32    weights, dweights (ROWS / TOP, TOP)    dy (ROWS / TOP, C)    x, dx (ROWS, C)
// use: index reduce
const ROWS: u32 = 64u;
const C: u32 = 64u;
const TOP: u32 = 2u;
const THREADS: u32 = 64u;

// Vec4s of a row.
const CV: u32 = C / 4u;
const_assert C % 4u == 0u;

@group(0) @binding(0) var<storage, read> weights: array<f32>;
@group(0) @binding(1) var<storage, read> order: array<u32>;
@group(0) @binding(2) var<storage, read> dy: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> x: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> dweights: array<f32>;

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
    let pair = order[row];
    var sum = 0.0;
    for (var c = thread; c < CV; c += THREADS) {
        let d = dy[pair / TOP * CV + c];
        sum += dot(x[row * CV + c], d);
        x[row * CV + c] = weights[pair] * d;
    }
    sum = workgroup_sum(sum, thread);
    if thread == 0u {
        dweights[pair] = sum;
    }
}
