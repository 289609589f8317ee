// attention_cached: one query per row for HEADS heads that share keys, over SPLIT keys of the cache, a workgroup for each. The
// splits are combined by attention_cached_combine. Reference: src/ops/attention_cached.rs
//
//   qkv (B, ROW): q, or q | k | v, C = NH * HS, KVC = KVH * HS    cache (B, 2, KVH, T, HS): rows FIRST.., keys, then values
//   positions (rows): of each row's query
//   parts (B, NH, SPLITS, HS + 4): the sum of exp(score - max) v, then max and the sum of exp(score - max)
//
// A key and a value are read once for all HEADS. On GPUs a thread per key makes the scores, from slabs of CHUNK quads of columns
// that pass through workgroup memory, so that neighbouring threads read neighbouring words; elsewhere a thread reads its keys
// itself.
// use: index window bias_none
const B: u32 = 1u;
const FIRST: u32 = 0u;
const T: u32 = 64u;
const NH: u32 = 1u;
// Heads of keys and values, each for NH / KVH heads of queries.
const KVH: u32 = 1u;
// Heads of queries of a workgroup.
const HEADS: u32 = 1u;
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
// Workgroups that share a split of a row.
const SHARES: u32 = NH / HEADS;
// A head in vec4.
const HV: u32 = HS / 4u;
// Columns, in vec4, of a thread, and threads that share a column.
const COLUMNS: u32 = (HV + ACROSS - 1u) / ACROSS;
const SLICES: u32 = THREADS / ACROSS;
// Whether keys pass through workgroup memory, a thread for each; otherwise a thread keeps the queries in registers.
const STAGED: bool = THREADS == SPLIT;
const CHUNK: u32 = min(HV, 8u);
// Odd: threads that read their keys' quads fall on different banks.
const PITCH: u32 = CHUNK | 1u;
const TILE: u32 = max(select(1u, SPLIT * PITCH, STAGED), SLICES * HEADS * HV);
// Threads that make the weights of a head.
const WEIGHERS: u32 = min(8u, THREADS / HEADS);
const MASKED: f32 = -1e30;
const_assert HS % 4u == 0u && NH % KVH == 0u && NH / KVH % HEADS == 0u && ACROSS <= THREADS && ACROSS <= HV;
const_assert HEADS <= THREADS && THREADS % WEIGHERS == 0u;

@group(0) @binding(0) var<storage, read> qkv: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> cache: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> parts: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> positions: array<u32>;

var<workgroup> weights: array<f32, HEADS * SPLIT>;
var<workgroup> shares: array<f32, HEADS * WEIGHERS>;
// A slab of the keys (SPLIT, PITCH), then sums of values (SLICES, HEADS, HV).
var<workgroup> tile: array<vec4<f32>, TILE>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let group = workgroup_index(id, count);
    if group >= B * SHARES * SPLITS {
        return;
    }
    let split = group % SPLITS;
    let first = split * SPLIT;
    let row = group / (SHARES * SPLITS);
    // One past the last key that the query sees: 0 where it sees none.
    let position = positions[FIRST + row];
    let end = position + 1u;
    let seen = first_key(position);
    if first >= end || first + SPLIT <= seen {
        return;
    }
    let start = max(first, seen) - first;
    let keys = min(SPLIT, end - first);
    let head = group / SPLITS % SHARES * HEADS;
    let k = ((row * 2u * KVH + head / (NH / KVH)) * T + first) * HV;
    let v = k + KVH * T * HV;
    let q_at = (FIRST + row) * ROW + head * HV;

    if STAGED {
        var products: array<vec4<f32>, HEADS>;
        for (var x0 = 0u; x0 < HV; x0 += CHUNK) {
            workgroupBarrier();
            for (var i = thread; i < SPLIT * CHUNK; i += THREADS) {
                let x = x0 + i % CHUNK;
                if i / CHUNK < keys && x < HV {
                    tile[i / CHUNK * PITCH + i % CHUNK] = cache[k + i / CHUNK * HV + x];
                }
            }
            workgroupBarrier();
            for (var x = 0u; x < CHUNK && x0 + x < HV; x++) {
                let quad = tile[thread * PITCH + x];
                for (var h = 0u; h < HEADS; h++) {
                    products[h] += qkv[q_at + h * HV + x0 + x] * quad;
                }
            }
        }
        for (var h = 0u; h < HEADS; h++) {
            let is_seen = thread >= start && thread < keys;
            weights[h * SPLIT + thread] = score(products[h], head + h, position, first + thread, is_seen);
        }
    } else {
        var q: array<array<vec4<f32>, HV>, HEADS>;
        for (var h = 0u; h < HEADS; h++) {
            for (var x = 0u; x < HV; x++) {
                q[h][x] = qkv[q_at + h * HV + x];
            }
        }
        for (var key = thread; key - thread < keys; key += THREADS) {
            let is_seen = key >= start && key < keys;
            var products: array<vec4<f32>, HEADS>;
            if is_seen {
                for (var x = 0u; x < HV; x++) {
                    let quad = cache[k + key * HV + x];
                    for (var h = 0u; h < HEADS; h++) {
                        products[h] += q[h][x] * quad;
                    }
                }
            }
            for (var h = 0u; h < HEADS; h++) {
                weights[h * SPLIT + key] = score(products[h], head + h, position, first + key, is_seen);
            }
        }
    }
    workgroupBarrier();

    // WEIGHERS threads for each head: the largest score, then the weights and their sum. Past the last key scores are MASKED.
    let own = thread / WEIGHERS * SPLIT + thread % WEIGHERS;
    let others = thread / WEIGHERS * WEIGHERS;
    let weighs = thread < HEADS * WEIGHERS;
    if weighs {
        var most = MASKED;
        for (var i = 0u; i < keys; i += WEIGHERS) {
            most = max(most, weights[own + i]);
        }
        shares[thread] = most;
    }
    workgroupBarrier();
    var most = MASKED;
    if weighs {
        for (var i = 0u; i < WEIGHERS; i++) {
            most = max(most, shares[others + i]);
        }
    }
    workgroupBarrier();
    if weighs {
        var sum = 0.0;
        for (var i = 0u; i < keys; i += WEIGHERS) {
            let weight = exp(weights[own + i] - most);
            weights[own + i] = weight;
            sum += weight;
        }
        shares[thread] = sum;
    }
    workgroupBarrier();

    let slice = thread / ACROSS;
    if slice < SLICES {
        var values: array<array<vec4<f32>, COLUMNS>, HEADS>;
        for (var key = start + slice; key < keys; key += SLICES) {
            for (var i = 0u; i < COLUMNS; i++) {
                // A column past the end repeats the last one and is not stored.
                let value = cache[v + key * HV + min(thread % ACROSS + i * ACROSS, HV - 1u)];
                for (var h = 0u; h < HEADS; h++) {
                    values[h][i] += weights[h * SPLIT + key] * value;
                }
            }
        }
        for (var i = 0u; i < COLUMNS; i++) {
            let x = thread % ACROSS + i * ACROSS;
            if x < HV {
                for (var h = 0u; h < HEADS; h++) {
                    tile[(slice * HEADS + h) * HV + x] = values[h][i];
                }
            }
        }
    }
    workgroupBarrier();
    let part = ((FIRST + row) * NH + head) * SPLITS + split;
    for (var i = thread; i < HEADS * HV; i += THREADS) {
        var value = tile[i];
        for (var s = 1u; s < SLICES; s++) {
            value += tile[s * HEADS * HV + i];
        }
        parts[(part + i / HV * SPLITS) * (HV + 1u) + i % HV] = value;
    }
    if weighs && thread % WEIGHERS == 0u {
        var sum = 0.0;
        for (var i = 0u; i < WEIGHERS; i++) {
            sum += shares[others + i];
        }
        parts[(part + thread / WEIGHERS * SPLITS) * (HV + 1u) + HV] = vec4<f32>(most, sum, 0.0, 0.0);
    }
}

// The score of a key from its products with a query; MASKED, whose weight is 0, where the query does not see it.
fn score(products: vec4<f32>, head: u32, position: u32, key: u32, is_seen: bool) -> f32 {
    if !is_seen {
        return MASKED;
    }
    let product = (products.x + products.y + products.z + products.w) * SCALE;
    return biased(vec4<f32>(product), head, vec4<u32>(position), vec4<u32>(key)).x;
}
