// attention_backward_key_tiled: dk and dv, with the probabilities made again. For GPUs.
//
//   p = exp(SCALE q k^T + bias - lse);  dv = (keep * p)^T dy;  ds = p (keep * (dy v^T) - delta);  dk = SCALE ds^T q
//   q (B, TQ, C);  k, v (B, TK, KVC): with q or with each other side by side;  dy (B, TQ, C);  lse, delta (B, NH, TQ)
//   dkv as k and v; where q, k and v are side by side, their parts of them all
//
// A workgroup owns BK keys of one head: their k and v are staged once, blocks of BQ queries pass, from the first that sees a
// key to the last, one head of queries after the other: q, then dy, then q again in the same tile, and p and then ds in
// another. Threads are laid out as in attention_tiled, with keys for rows. Writes the k and v parts of dqkv.
// Dao 2023 (FlashAttention-2), algorithm 2, without its atomics. Reference: src/ops/attention_backward.rs
// use: index attention
const TX: u32 = 8u;
const TY: u32 = 8u;
const ROWS: u32 = 1u;

const THREADS: u32 = TX * TY;
const BK: u32 = TY * ROWS;
const BQ: u32 = TX * 4u;
const BLOCKS: u32 = (TK + BK - 1u) / BK;
const COLUMNS: u32 = (HV + TX - 1u) / TX;
// Quads of a tile that a thread fetches.
const LOADS: u32 = (BQ * HV + THREADS - 1u) / THREADS;
// Odd, so that rows start in different banks.
const PITCH: u32 = HV | 1u;
const P_PITCH: u32 = TX | 1u;

@group(0) @binding(1) var<storage, read> lse: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<vec4<X_TYPE>>;
@group(0) @binding(3) var<storage, read> delta: array<f32>;
@group(0) @binding(4) var<storage, read_write> dkv_rows: array<vec4<X_TYPE>>;
@group(0) @binding(5) var<uniform> step: Step;

var<workgroup> held: array<vec4<X_TYPE>, 2u * BK * PITCH>; // (2, BK, HV): k; v
var<workgroup> tile: array<vec4<X_TYPE>, BQ * PITCH>; // (BQ, HV): q or dy
var<workgroup> p_tile: array<vec4<f32>, BK * P_PITCH>; // (BK, TX): element x holds queries x, x + TX, x + 2 TX, x + 3 TX

const K: u32 = 0u;
const V: u32 = BK * PITCH;
alias Ahead = array<vec4<X_TYPE>, LOADS>;
alias Sums = array<array<vec4<f32>, COLUMNS>, ROWS>;

// Keys past the end repeat the last one and are not stored.
fn load_held(at: u32, j0: u32, thread: u32) {
    for (var e = thread; e < BK * HV; e += THREADS) {
        let row_at = at + min(j0 + e / HV, TK - 1u) * KV_ROW + e % HV;
        held[K + e / HV * PITCH + e % HV] = kv_quad(row_at);
        held[V + e / HV * PITCH + e % HV] = kv_quad(row_at + KV);
    }
}

// This thread's quads of q from i0 on. Past the end the last one repeats, which is masked.
fn fetch_q(at: u32, i0: u32, thread: u32) -> Ahead {
    var ahead: Ahead;
    for (var n = 0u; n < LOADS; n++) {
        let e = min(thread + n * THREADS, BQ * HV - 1u);
        ahead[n] = q_quad(at + min(i0 + e / HV, TQ - 1u) * Q_ROW + e % HV);
    }
    return ahead;
}

// The same of dy.
fn fetch_dy(at: u32, i0: u32, thread: u32) -> Ahead {
    var ahead: Ahead;
    for (var n = 0u; n < LOADS; n++) {
        let e = min(thread + n * THREADS, BQ * HV - 1u);
        ahead[n] = dy[at + min(i0 + e / HV, TQ - 1u) * CV + e % HV];
    }
    return ahead;
}

fn stage(ahead: Ahead, thread: u32) {
    for (var n = 0u; n < LOADS; n++) {
        let e = thread + n * THREADS;
        if BQ * HV % THREADS == 0u || e < BQ * HV {
            tile[e / HV * PITCH + e % HV] = ahead[n];
        }
    }
}

// Element x of the four rows of `tile` at `row` and at distance TX.
fn four(row: u32, x: u32) -> mat4x4<f32> {
    return mat4x4<f32>(
        vec4<f32>(tile[row * PITCH + x]),
        vec4<f32>(tile[(row + TX) * PITCH + x]),
        vec4<f32>(tile[(row + 2u * TX) * PITCH + x]),
        vec4<f32>(tile[(row + 3u * TX) * PITCH + x]),
    );
}

// Products of the thread's rows of k or v with its four rows of `tile`.
fn products(part: u32, tx: u32, ty: u32) -> array<vec4<f32>, ROWS> {
    var s: array<vec4<f32>, ROWS>;
    for (var x = 0u; x < HV; x++) {
        let rows = four(tx, x);
        for (var r = 0u; r < ROWS; r++) {
            s[r] += vec4<f32>(held[part + (ty + TY * r) * PITCH + x]) * rows;
        }
    }
    return s;
}

// sums += p_tile * tile, for the thread's rows and columns.
fn accumulate(sums: ptr<function, Sums>, tx: u32, ty: u32) {
    for (var x = 0u; x < TX; x++) {
        for (var c = 0u; c < COLUMNS; c++) {
            if tx + TX * c < HV {
                let rows = four(x, tx + TX * c);
                for (var r = 0u; r < ROWS; r++) {
                    (*sums)[r][c] += rows * p_tile[(ty + TY * r) * P_PITCH + x];
                }
            }
        }
    }
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let block = workgroup_index(id, count);
    if block >= ENTRIES * KVH * BLOCKS {
        return;
    }
    let kv_head = block / BLOCKS;
    let j0 = block % BLOCKS * BK;
    let batch = kv_head / KVH;
    let kv_at = batch * TK * KV_ROW + K_COLUMN + kv_head % KVH * HV;
    let tx = thread % TX;
    let ty = thread / TX;
    var dk: Sums;
    var dv: Sums;
    load_held(kv_at, j0, thread);
    let entry = B_FIRST + batch;
    let begin = first_query(entry, j0);
    let end = queries_end(entry, j0, j0 + BK - 1u);
    // Always 1, but compilers do not know: a load under a condition is not moved behind the products that hide it.
    let one = count.z;
    // The heads of queries that share these keys, one after the other.
    for (var n = 0u; n < NH / KVH; n++) {
        let head = kv_head % KVH * (NH / KVH) + n;
        let at = batch * TQ * Q_ROW + head * HV;
        let dy_at = batch * TQ * CV + head * HV;
        let rows = (entry * NH + head) * TQ;
        var ahead = fetch_q(at, begin, thread);
        for (var i0 = begin; i0 < end; i0 += BQ) {
            let i = i0 + tx + vec4<u32>(0u, TX, 2u * TX, 3u * TX);
            let row = rows + min(i, vec4<u32>(TQ - 1u));
            let word = mask_words(entry, i);
            var row_lse: vec4<f32>;
            var row_delta: vec4<f32>;
            workgroupBarrier();
            stage(ahead, thread);
            if i0 < end * one {
                ahead = fetch_dy(dy_at, i0, thread);
                row_lse = vec4<f32>(lse[row.x], lse[row.y], lse[row.z], lse[row.w]);
                row_delta = vec4<f32>(delta[row.x], delta[row.y], delta[row.z], delta[row.w]);
            }
            workgroupBarrier();
            var p = products(K, tx, ty);
            var kept: array<vec4<f32>, ROWS>;
            for (var r = 0u; r < ROWS; r++) {
                let j = j0 + ty + TY * r;
                let seen = sees(word, i, vec4<u32>(j)) & (i < vec4<u32>(TQ));
                let score = biased(p[r] * SCALE, entry * NH + head, i, vec4<u32>(j));
                p[r] = exp(select(vec4<f32>(MASKED), score - row_lse, seen));
                kept[r] = vec4<f32>(1.0);
                if DROPOUT {
                    kept[r] = keep(row * TK + j, KEEP_SCALE);
                }
                p_tile[(ty + TY * r) * P_PITCH + tx] = kept[r] * p[r];
            }
            workgroupBarrier();
            stage(ahead, thread);
            if i0 < end * one {
                ahead = fetch_q(at, i0, thread);
            }
            workgroupBarrier();
            let dp = products(V, tx, ty);
            accumulate(&dv, tx, ty);
            workgroupBarrier();
            stage(ahead, thread);
            if i0 + BQ < end {
                ahead = fetch_q(at, i0 + BQ, thread);
            }
            for (var r = 0u; r < ROWS; r++) {
                p_tile[(ty + TY * r) * P_PITCH + tx] = p[r] * (kept[r] * dp[r] - row_delta);
            }
            workgroupBarrier();
            accumulate(&dk, tx, ty);
        }
    }
    for (var r = 0u; r < ROWS; r++) {
        for (var c = 0u; c < COLUMNS; c++) {
            let j = j0 + ty + TY * r;
            if j < TK && tx + TX * c < HV {
                let to = kv_at + j * KV_ROW + tx + TX * c;
                dkv_rows[to] = vec4<X_TYPE>(dk[r][c] * SCALE);
                dkv_rows[to + KV] = vec4<X_TYPE>(dv[r][c]);
            }
        }
    }
}
