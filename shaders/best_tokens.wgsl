// best_tokens: the COUNT largest log-probabilities of each row with their ids, a workgroup per row, a pass for each.
//
//   logits (B, COLUMNS), of which V count    ids (B): the tokens fed last    best (B, COUNT, 2): id, log-probability
//
// Reference: src/ops/best_tokens.rs
// use: index logit seen
const COLUMNS: u32 = 64u;
const V: u32 = 64u;
const COUNT: u32 = 8u;
const THREADS: u32 = 64u;
const PENALTY: f32 = 1.0;
const WORDS: u32 = 4u;

@group(0) @binding(2) var<storage, read> ids: array<u32>;
@group(0) @binding(3) var<storage, read_write> best: array<u32>;

var<workgroup> firsts: array<u32, THREADS>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = workgroup_index(id, count);
    if row >= arrayLength(&ids) {
        return;
    }
    let fed = ids[row];
    let raw = largest_and_sum(row, thread);
    let total = raw.x + log(raw.y);
    // The last pass's token: the next is lower, or equal with a larger id.
    var last = 3.4e38;
    var last_id = 0u;
    for (var n = 0u; n < COUNT; n++) {
        var highest = -3.4e38;
        var first = V;
        for (var i = thread; i < V; i += THREADS) {
            let x = penalised(row, i, fed, logit(row, i) - total, PENALTY);
            let next = x > highest && (x < last || (x == last && i > last_id));
            first = select(first, i, next);
            highest = select(highest, x, next);
        }
        last = workgroup_max(highest, thread);
        workgroupBarrier();
        firsts[thread] = select(V, first, highest == last);
        workgroupBarrier();
        last_id = V;
        for (var t = 0u; t < THREADS; t++) {
            last_id = min(last_id, firsts[t]);
        }
        if thread == 0u {
            best[(row * COUNT + n) * 2u] = last_id;
            best[(row * COUNT + n) * 2u + 1u] = told(last, raw.z);
        }
    }
    if thread == 0u {
        remember(row, fed);
    }
}
