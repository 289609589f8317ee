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
// Odd, so that rows start in different banks.
const PITCH: u32 = HV | 1u;
const P_PITCH: u32 = TX | 1u;

@group(0) @binding(1) var<storage, read> lse: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<vec4<X_TYPE>>;
@group(0) @binding(3) var<storage, read> delta: array<f32>;
@group(0) @binding(4) var<storage, read_write> dkv_rows: array<vec4<X_TYPE>>;
@group(0) @binding(5) var<uniform> step: Step;

var<workgroup> held: array<vec4<f32>, 2u * BK * PITCH>; // (2, BK, HV): k, scaled; v
var<workgroup> tile: array<vec4<f32>, BQ * PITCH>; // (BQ, HV): q or dy
var<workgroup> p_tile: array<vec4<f32>, BK * P_PITCH>; // (BK, TX): element x holds queries x, x + TX, x + 2 TX, x + 3 TX

const K: u32 = 0u;
const V: u32 = BK * PITCH;
alias Sums = array<array<vec4<f32>, COLUMNS>, ROWS>;

fn load_held(at: u32, j0: u32, thread: u32) {
    for (var e = thread; e < BK * HV; e += THREADS) {
        let j = j0 + e / HV;
        var k = vec4<f32>(0.0);
        var v = vec4<f32>(0.0);
        if j < TK {
            k = vec4<f32>(kv_quad(at + j * KV_ROW + e % HV)) * SCALE;
            v = vec4<f32>(kv_quad(at + j * KV_ROW + KV + e % HV));
        }
        held[K + e / HV * PITCH + e % HV] = k;
        held[V + e / HV * PITCH + e % HV] = v;
    }
}

fn load_q(at: u32, i0: u32, thread: u32) {
    for (var e = thread; e < BQ * HV; e += THREADS) {
        let i = i0 + e / HV;
        var value = vec4<f32>(0.0);
        if i < TQ {
            value = vec4<f32>(q_quad(at + i * Q_ROW + e % HV));
        }
        tile[e / HV * PITCH + e % HV] = value;
    }
}

fn load_dy(at: u32, i0: u32, thread: u32) {
    for (var e = thread; e < BQ * HV; e += THREADS) {
        let i = i0 + e / HV;
        var value = vec4<f32>(0.0);
        if i < TQ {
            value = vec4<f32>(dy[at + i * CV + e % HV]);
        }
        tile[e / HV * PITCH + e % HV] = value;
    }
}

// Element x of the four rows of `tile` at `row` and at distance TX.
fn four(row: u32, x: u32) -> mat4x4<f32> {
    return mat4x4<f32>(
        tile[row * PITCH + x],
        tile[(row + TX) * PITCH + x],
        tile[(row + 2u * TX) * PITCH + x],
        tile[(row + 3u * TX) * PITCH + x],
    );
}

// Products of the thread's rows of k or v with its four rows of `tile`.
fn products(part: u32, tx: u32, ty: u32) -> array<vec4<f32>, ROWS> {
    var s: array<vec4<f32>, ROWS>;
    for (var x = 0u; x < HV; x++) {
        let rows = four(tx, x);
        for (var r = 0u; r < ROWS; r++) {
            s[r] += held[part + (ty + TY * r) * PITCH + x] * rows;
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
    // The heads of queries that share these keys, one after the other.
    for (var n = 0u; n < NH / KVH; n++) {
        let head = kv_head % KVH * (NH / KVH) + n;
        let at = batch * TQ * Q_ROW + head * HV;
        let dy_at = batch * TQ * CV + head * HV;
        let rows = (entry * NH + head) * TQ;
        for (var i0 = begin; i0 < end; i0 += BQ) {
            let i = i0 + tx + vec4<u32>(0u, TX, 2u * TX, 3u * TX);
            let row = rows + min(i, vec4<u32>(TQ - 1u));
            let word = mask_words(entry, i);
            let row_lse = vec4<f32>(lse[row.x], lse[row.y], lse[row.z], lse[row.w]);
            let row_delta = vec4<f32>(delta[row.x], delta[row.y], delta[row.z], delta[row.w]);
            workgroupBarrier();
            load_q(at, i0, thread);
            workgroupBarrier();
            var p = products(K, tx, ty);
            var kept: array<vec4<f32>, ROWS>;
            for (var r = 0u; r < ROWS; r++) {
                let j = j0 + ty + TY * r;
                let seen = sees(word, i, vec4<u32>(j)) & (i < vec4<u32>(TQ));
                let score = biased(p[r], entry * NH + head, i, vec4<u32>(j));
                p[r] = exp(select(vec4<f32>(MASKED), score - row_lse, seen));
                kept[r] = vec4<f32>(1.0);
                if DROPOUT {
                    kept[r] = keep(row * TK + j, KEEP_SCALE);
                }
                p_tile[(ty + TY * r) * P_PITCH + tx] = kept[r] * p[r];
            }
            workgroupBarrier();
            load_dy(dy_at, i0, thread);
            workgroupBarrier();
            let dp = products(V, tx, ty);
            accumulate(&dv, tx, ty);
            workgroupBarrier();
            load_q(at, i0, thread);
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
