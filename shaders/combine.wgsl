// combine: y[t] = sum over a token's choices of weight * x[their place], in the order of the choices; a thread per vec4.
//
//   x (PAIRS, C)    position (LEN / CV, TOP) u32    weights (LEN / CV, TOP)    y (LEN / CV, C)
//
// Reference: src/ops/combine.rs
// use: index combine_weighted
const LEN: u32 = 256u;
const C: u32 = 64u;
const TOP: u32 = 2u;

// Vec4s of a row.
const CV: u32 = C / 4u;
const_assert C % 4u == 0u;

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> position: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = workgroup_index(id, count) * 256u + thread;
    if i >= LEN {
        return;
    }
    let token = i / CV;
    var sum = vec4<f32>();
    for (var pair = token * TOP; pair < (token + 1u) * TOP; pair++) {
        sum += weight(pair) * x[position[pair] * CV + i % CV];
    }
    y[i] = sum;
}
