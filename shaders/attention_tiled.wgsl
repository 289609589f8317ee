// attention_tiled: y = softmax(q k^T / sqrt(HS), causal) v per head, fused, with an online softmax. For GPUs.
//
//   qkv (B, T, C + 2 KVC): q | k | v, C = NH * HS, KVC = KVH * HS, head h at h * HS in each;  y (B, T, C)
//   lse (B, NH, T): log-sum-exp, for backward
//
// A workgroup owns BQ queries of one head: their q is staged once, blocks of BK keys pass, k and then v in the same tile. A thread
// owns ROWS queries at distance TY, and with each block four keys at distance TX, then COLUMNS vec4 of the output, also at
// distance TX: neighbours read neighbouring banks. Blocks that no query sees are never visited.
// Dao et al. 2022, algorithm 1. Reference: src/ops/attention.rs
// use: index random step window
const ENTRIES: u32 = 1u;
// Batch entries before those of this dispatch.
const B_FIRST: u32 = 0u;
const T: u32 = 64u;
const NH: u32 = 1u;
// Heads of keys and values, each for NH / KVH heads of queries.
const KVH: u32 = 1u;
const HS: u32 = 64u;
const WINDOW: u32 = T;
const DROPOUT: bool = false;
// Of dropout: p * 2^32, and 1 / (1 - p).
const THRESHOLD: u32 = 0u;
const KEEP_SCALE: f32 = 1.0;
const SALT: u32 = 0u;
const TX: u32 = 8u;
const TY: u32 = 8u;
const ROWS: u32 = 2u;

const THREADS: u32 = TX * TY;
const BQ: u32 = TY * ROWS;
const BK: u32 = TX * 4u;
const BLOCKS: u32 = (T + BQ - 1u) / BQ;
// Lengths in vec4: a head, a row of y, the keys of a row, a row of qkv.
const HV: u32 = HS / 4u;
const CV: u32 = NH * HV;
const KV: u32 = KVH * HV;
const ROW: u32 = CV + 2u * KV;
const COLUMNS: u32 = (HV + TX - 1u) / TX;
// Odd, so that rows start in different banks.
const PITCH: u32 = HV | 1u;
const P_PITCH: u32 = TX | 1u;
const SCALE: f32 = 1.0 / sqrt(f32(HS));
// WGSL knows no infinity: low enough that exp is 0.
const MASKED: f32 = -1e30;
const_assert HS % 4u == 0u && NH % KVH == 0u;

// Element type of q, k, v, y and their gradients.
alias X_TYPE = f32;

@group(0) @binding(0) var<storage, read> qkv: array<vec4<X_TYPE>>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<X_TYPE>>;
@group(0) @binding(2) var<storage, read_write> lse: array<f32>;
@group(0) @binding(3) var<uniform> step: Step;

var<workgroup> q_tile: array<vec4<f32>, BQ * PITCH>; // (BQ, HV), scaled
var<workgroup> kv_tile: array<vec4<f32>, BK * PITCH>; // (BK, HV)
var<workgroup> p_tile: array<vec4<f32>, BQ * P_PITCH>; // (BQ, TX): element x holds keys x, x + TX, x + 2 TX, x + 3 TX
var<workgroup> shares: array<f32, BQ * TX>; // each thread's share of what a row reduces: its maximum, then its sum

fn load_q(at: u32, i0: u32, thread: u32) {
    for (var e = thread; e < BQ * HV; e += THREADS) {
        let i = i0 + e / HV;
        var value = vec4<f32>(0.0);
        if i < T {
            value = vec4<f32>(qkv[at + i * ROW + e % HV]) * SCALE;
        }
        q_tile[e / HV * PITCH + e % HV] = value;
    }
}

fn load_kv(at: u32, j0: u32, thread: u32) {
    for (var e = thread; e < BK * HV; e += THREADS) {
        let j = j0 + e / HV;
        var value = vec4<f32>(0.0);
        if j < T {
            value = vec4<f32>(qkv[at + j * ROW + e % HV]);
        }
        kv_tile[e / HV * PITCH + e % HV] = value;
    }
}

// Element x of the four rows of kv_tile at `row` and at distance TX.
fn four(row: u32, x: u32) -> mat4x4<f32> {
    return mat4x4<f32>(
        kv_tile[row * PITCH + x],
        kv_tile[(row + TX) * PITCH + x],
        kv_tile[(row + 2u * TX) * PITCH + x],
        kv_tile[(row + 3u * TX) * PITCH + x],
    );
}

// The thread's scaled scores, those of keys that a query does not see masked.
fn scores(i0: u32, j0: u32, tx: u32, ty: u32) -> array<vec4<f32>, ROWS> {
    var s: array<vec4<f32>, ROWS>;
    for (var x = 0u; x < HV; x++) {
        let k = four(tx, x);
        for (var r = 0u; r < ROWS; r++) {
            s[r] += q_tile[(ty + TY * r) * PITCH + x] * k;
        }
    }
    let j = j0 + tx + vec4<u32>(0u, TX, 2u * TX, 3u * TX);
    for (var r = 0u; r < ROWS; r++) {
        s[r] = select(vec4<f32>(MASKED), s[r], sees(vec4<u32>(i0 + ty + TY * r), j));
    }
    return s;
}

fn keep(row: u32, j: u32) -> vec4<f32> {
    var kept: vec4<f32>;
    for (var n = 0u; n < 4u; n++) {
        kept[n] = keep_factor(row * T + j + n * TX, step.micro_batch, step.seed, SALT, THRESHOLD, KEEP_SCALE);
    }
    return kept;
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let tile = workgroup_index(id, count);
    if tile >= ENTRIES * NH * BLOCKS {
        return;
    }
    let head = tile / BLOCKS;
    // The last queries see the most keys: they start first.
    let i0 = (BLOCKS - 1u - tile % BLOCKS) * BQ;
    let at = head / NH * T * ROW + head % NH * HV;
    let kv_at = head / NH * T * ROW + CV + head % NH / (NH / KVH) * HV;
    let first_row = (B_FIRST * NH + head) * T + i0;
    let tx = thread % TX;
    let ty = thread / TX;
    var o: array<array<vec4<f32>, COLUMNS>, ROWS>;
    var m: array<f32, ROWS>;
    var l: array<f32, ROWS>; // over this thread's keys
    for (var r = 0u; r < ROWS; r++) {
        m[r] = MASKED;
    }
    load_q(at, i0, thread);
    for (var j0 = first_key(i0) / BK * BK; j0 < min(i0 + BQ, T); j0 += BK) {
        workgroupBarrier();
        load_kv(kv_at, j0, thread);
        workgroupBarrier();
        var p = scores(i0, j0, tx, ty);
        for (var r = 0u; r < ROWS; r++) {
            shares[(ty + TY * r) * TX + tx] = max(max(p[r].x, p[r].y), max(p[r].z, p[r].w));
        }
        workgroupBarrier();
        load_kv(kv_at + KV, j0, thread);
        for (var r = 0u; r < ROWS; r++) {
            let before = m[r];
            for (var x = 0u; x < TX; x++) {
                m[r] = max(m[r], shares[(ty + TY * r) * TX + x]);
            }
            let rescale = exp(before - m[r]);
            p[r] = exp(p[r] - m[r]);
            l[r] = l[r] * rescale + p[r].x + p[r].y + p[r].z + p[r].w;
            for (var c = 0u; c < COLUMNS; c++) {
                o[r][c] *= rescale;
            }
            if DROPOUT {
                p[r] *= keep(first_row + ty + TY * r, j0 + tx);
            }
            p_tile[(ty + TY * r) * P_PITCH + tx] = p[r];
        }
        workgroupBarrier();
        for (var x = 0u; x < TX; x++) {
            for (var c = 0u; c < COLUMNS; c++) {
                if tx + TX * c < HV {
                    let v = four(x, tx + TX * c);
                    for (var r = 0u; r < ROWS; r++) {
                        o[r][c] += v * p_tile[(ty + TY * r) * P_PITCH + x];
                    }
                }
            }
        }
    }
    for (var r = 0u; r < ROWS; r++) {
        shares[(ty + TY * r) * TX + tx] = l[r];
    }
    workgroupBarrier();
    for (var r = 0u; r < ROWS; r++) {
        let i = i0 + ty + TY * r;
        if i < T {
            var sum = 0.0;
            for (var x = 0u; x < TX; x++) {
                sum += shares[(ty + TY * r) * TX + x];
            }
            for (var c = 0u; c < COLUMNS; c++) {
                if tx + TX * c < HV {
                    y[(head / NH * T + i) * CV + head % NH * HV + tx + TX * c] = vec4<X_TYPE>(o[r][c] / sum);
                }
            }
            if tx == 0u {
                lse[first_row + ty + TY * r] = m[r] + log(sum);
            }
        }
    }
}
