// classifier: losses[r] = log-sum-exp(logits[r]) - logits[r, target] and, in place over the logits,
// logits <- (softmax(logits) - onehot(target)) * WEIGHT * seed / count; both are 0 where the target is ignored.
//
//   logits (ROWS, V)    targets (ROWS) u32, 2^32 - 1 to ignore    counted, seed (1)    losses (ROWS)
//
// One workgroup per row. Maximum and sum of exponentials in one pass: the sum is scaled down where a larger logit turns up.
// The second pass finds the row in a cache. Reference: src/ops/classifier.rs
// use: index reduce logit_quads
const ROWS: u32 = 1u;
const V: u32 = 64u;
const THREADS: u32 = 64u;
const WEIGHT: f32 = 1.0;

@group(0) @binding(1) var<storage, read> targets: array<u32>;
@group(0) @binding(2) var<storage, read> counted: array<f32>;
@group(0) @binding(3) var<storage, read> seed: array<f32>;
@group(0) @binding(4) var<storage, read_write> losses: array<f32>;

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
    let target_id = targets[row];
    let ignored = target_id == 0xffffffffu;
    let own = logit(row, select(target_id, 0u, ignored));
    // Nothing is read of a row that is ignored; its threads meet the others at the barriers all the same.
    let end = select(V, 0u, ignored);
    var largest = -1e30;
    var sums = vec4<f32>(0.0);
    for (var i = first_quad(thread); i < end; i += 4u * THREADS) {
        let x = quad(row, i);
        let most = max(max(x.x, x.y), max(x.z, x.w));
        if most > largest {
            sums *= exp(largest - most);
            largest = most;
        }
        sums += exp(x - largest);
    }
    let most = workgroup_max(largest, thread);
    let sum = workgroup_sum((sums.x + sums.y + sums.z + sums.w) * exp(largest - most), thread);
    if thread == 0u {
        losses[row] = select(log(sum) + (most - own), 0.0, ignored);
    }
    if ignored {
        for (var i = first_quad(thread); i < V; i += 4u * THREADS) {
            store_quad(row, i, vec4<f32>(0.0));
        }
        return;
    }
    let scale = WEIGHT * seed[0] / max(counted[0], 1.0);
    for (var i = first_quad(thread); i < V; i += 4u * THREADS) {
        let p = exp(quad(row, i) - most) / sum;
        let hit = select(vec4<f32>(0.0), vec4<f32>(1.0), columns(i) == vec4<u32>(target_id));
        store_quad(row, i, (p - hit) * scale);
    }
}
