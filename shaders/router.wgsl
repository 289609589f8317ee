// router: the TOP largest of a token's logits, and their share of the softmax: over all experts, or, if RENORMALISE, over the
// chosen ones. A thread per token.
//
//   logits (ROWS, E)    weights (ROWS, TOP)    ids (ROWS, TOP) u32    lse (ROWS): log-sum-exp over all experts
//
// Of equal logits the expert with the lower index goes first. Reference: src/ops/router.rs
// use: index
const ROWS: u32 = 64u;
const E: u32 = 8u;
const TOP: u32 = 2u;
const RENORMALISE: bool = true;

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read_write> weights: array<f32>;
@group(0) @binding(2) var<storage, read_write> ids: array<u32>;
@group(0) @binding(3) var<storage, read_write> lse: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = workgroup_index(id, count) * 64u + thread;
    if row >= ROWS {
        return;
    }
    // Best first. Should no logit compare greater, as none does if all are NaN, the ids are valid nevertheless.
    var best: array<f32, TOP>;
    var chosen: array<u32, TOP>;
    for (var j = 0u; j < TOP; j++) {
        best[j] = -3.4e38;
        chosen[j] = j;
    }
    for (var e = 0u; e < E; e++) {
        let value = logits[row * E + e];
        var j = TOP;
        while j > 0u && value > best[max(j, 1u) - 1u] {
            j--;
            if j + 1u < TOP {
                best[j + 1u] = best[j];
                chosen[j + 1u] = chosen[j];
            }
        }
        if j < TOP {
            best[j] = value;
            chosen[j] = e;
        }
    }
    var sum = 0.0;
    for (var e = 0u; e < E; e++) {
        sum += exp(logits[row * E + e] - best[0]);
    }
    lse[row] = best[0] + log(sum);
    if RENORMALISE {
        sum = 0.0;
        for (var j = 0u; j < TOP; j++) {
            sum += exp(best[j] - best[0]);
        }
    }
    for (var j = 0u; j < TOP; j++) {
        weights[row * TOP + j] = exp(best[j] - best[0]) / sum;
        ids[row * TOP + j] = chosen[j];
    }
}
