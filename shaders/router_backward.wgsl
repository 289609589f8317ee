// router_backward: dlogits from the gradient of the chosen experts' weights, or dlogits += it; a thread per logit.
//
//   logits (LEN / E, E)    weights, dy (LEN / E, TOP)    ids (LEN / E, TOP) u32    lse (LEN / E)    dlogits (LEN / E, E)
//
// Reference: src/ops/router.rs
// use: index
const LEN: u32 = 256u;
const E: u32 = 8u;
const TOP: u32 = 2u;
const RENORMALISE: bool = true;
const ACCUMULATE: bool = false;

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> weights: array<f32>;
@group(0) @binding(2) var<storage, read> ids: array<u32>;
@group(0) @binding(3) var<storage, read> lse: array<f32>;
@group(0) @binding(4) var<storage, read> dy: array<f32>;
@group(0) @binding(5) var<storage, read_write> dlogits: array<f32>;

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
    let row = i / E;
    var all = 0.0;
    var own = 0.0;
    var share = 0.0;
    for (var j = row * TOP; j < (row + 1u) * TOP; j++) {
        all += weights[j] * dy[j];
        if ids[j] == i % E {
            own += weights[j] * dy[j];
            share += weights[j];
        }
    }
    if !RENORMALISE {
        share = exp(logits[i] - lse[row]);
    }
    let d = own - share * all;
    if ACCUMULATE {
        dlogits[i] += d;
    } else {
        dlogits[i] = d;
    }
}
