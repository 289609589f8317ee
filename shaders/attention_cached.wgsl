// attention_cached: one query per row and head over SPLIT keys of the cache, a workgroup for each. The splits are combined
// by attention_cached_combine. Reference: src/ops/attention_cached.rs
//
//   qkv (B, ROW): q, or q | k | v, C = NH * HS, KVC = KVH * HS    cache (B, 2, KVH, T, HS): rows FIRST.., keys, then values
//   positions (rows): of each row's query
//   parts (B, NH, SPLITS, HS + 4): the sum of exp(score - max) v, then max and the sum of exp(score - max)
//
// use: index reduce window bias_none
const B: u32 = 1u;
const FIRST: u32 = 0u;
const T: u32 = 64u;
const NH: u32 = 1u;
// Heads of keys and values, each for NH / KVH heads of queries.
const KVH: u32 = 1u;
const HS: u32 = 64u;
const WINDOW: u32 = T;
const SPLIT: u32 = 64u;
const THREADS: u32 = 64u;
// Threads side by side along a head's columns.
const ACROSS: u32 = 16u;
// A row of the tensor with the queries, in vec4.
const ROW: u32 = 48u;
const SCALE: f32 = 1.0 / sqrt(f32(HS));
// Of a bias, whose queries and keys are the positions of the cache.
const BIAS_BINDING: u32 = 4u;
const TQ: u32 = T;
const TK: u32 = T;
const DISTANCES: u32 = 2u * T - 1u;

const SPLITS: u32 = (T + SPLIT - 1u) / SPLIT;
// A head in vec4.
const HV: u32 = HS / 4u;
// Columns, in vec4, of a thread, and threads that share a column.
const COLUMNS: u32 = (HV + ACROSS - 1u) / ACROSS;
const SLICES: u32 = THREADS / ACROSS;
// Whether a thread keeps the query in registers: one key needs each of its numbers once.
const HELD: bool = THREADS < SPLIT;
const MASKED: f32 = -1e30;
const_assert HS % 4u == 0u && NH % KVH == 0u && ACROSS <= THREADS && ACROSS <= HV;

@group(0) @binding(0) var<storage, read> qkv: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> cache: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> parts: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> positions: array<u32>;

var<workgroup> weights: array<f32, SPLIT>;
var<workgroup> slices: array<vec4<f32>, SLICES * HV>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let group = workgroup_index(id, count);
    if group >= B * NH * SPLITS {
        return;
    }
    let first = group % SPLITS * SPLIT;
    let row = group / (NH * SPLITS);
    // One past the last key that the query sees: 0 where it sees none.
    let position = positions[FIRST + row];
    let end = position + 1u;
    let seen = first_key(position);
    if first >= end || first + SPLIT <= seen {
        return;
    }
    let start = max(first, seen) - first;
    let keys = min(SPLIT, end - first);
    let head = group / SPLITS % NH;
    let part = ((FIRST + row) * NH * SPLITS + group % (NH * SPLITS)) * (HV + 1u);
    let k = ((row * 2u * KVH + head / (NH / KVH)) * T + first) * HV;
    let v = k + KVH * T * HV;

    let q_at = (FIRST + row) * ROW + head * HV;
    var q: array<vec4<f32>, HV>;
    if HELD {
        for (var x = 0u; x < HV; x++) {
            q[x] = qkv[q_at + x] * SCALE;
        }
    }
    var most = MASKED;
    for (var key = start + thread; key < keys; key += THREADS) {
        var products: vec4<f32>;
        for (var x = 0u; x < HV; x++) {
            if HELD {
                products += q[x] * cache[k + key * HV + x];
            } else {
                products += qkv[q_at + x] * SCALE * cache[k + key * HV + x];
            }
        }
        let product = products.x + products.y + products.z + products.w;
        let score = biased(vec4<f32>(product), head, vec4<u32>(position), vec4<u32>(first + key)).x;
        weights[key] = score;
        most = max(most, score);
    }
    most = workgroup_max(most, thread);
    var sum = 0.0;
    for (var key = start + thread; key < keys; key += THREADS) {
        let weight = exp(weights[key] - most);
        weights[key] = weight;
        sum += weight;
    }
    // Its barriers show the weights to all threads.
    sum = workgroup_sum(sum, thread);

    let slice = thread / ACROSS;
    if slice < SLICES {
        var values: array<vec4<f32>, COLUMNS>;
        for (var key = start + slice; key < keys; key += SLICES) {
            let weight = weights[key];
            for (var i = 0u; i < COLUMNS; i++) {
                // A column past the end repeats the last one and is not stored.
                let x = min(thread % ACROSS + i * ACROSS, HV - 1u);
                values[i] += weight * cache[v + key * HV + x];
            }
        }
        for (var i = 0u; i < COLUMNS; i++) {
            let x = thread % ACROSS + i * ACROSS;
            if x < HV {
                slices[slice * HV + x] = values[i];
            }
        }
    }
    workgroupBarrier();
    for (var x = thread; x < HV; x += THREADS) {
        var value = slices[x];
        for (var s = 1u; s < SLICES; s++) {
            value += slices[s * HV + x];
        }
        parts[part + x] = value;
    }
    if thread == 0u {
        parts[part + HV] = vec4<f32>(most, sum, 0.0, 0.0);
    }
}
