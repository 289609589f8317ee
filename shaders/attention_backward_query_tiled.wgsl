// attention_backward_query_tiled: dq, and delta = rowsum(dy * y), with the probabilities made again. For GPUs.
//
//   p = exp(SCALE q k^T + bias - lse);  dp = keep * (dy v^T);  ds = p (dp - delta);  dq = SCALE ds k
//   q (B, TQ, C);  k, v (B, TK, KVC): with q or with each other side by side;  y, dy (B, TQ, C);  lse, delta (B, NH, TQ)
//   dq as q; where q, k and v are side by side, the q part of them all
//
// A workgroup owns BQ queries of one head: their q and dy are staged once, blocks of BK keys pass, v and then k in the same
// tile. Threads are laid out as in attention_tiled. Writes the q part of dqkv; the other two come from attention_backward_key.
// Dao 2023 (FlashAttention-2), algorithm 2, without its atomics. Reference: src/ops/attention_backward.rs
// use: index attention
const TX: u32 = 8u;
const TY: u32 = 8u;
const ROWS: u32 = 1u;

const THREADS: u32 = TX * TY;
const BQ: u32 = TY * ROWS;
const BK: u32 = TX * 4u;
const BLOCKS: u32 = (TQ + BQ - 1u) / BQ;
const COLUMNS: u32 = (HV + TX - 1u) / TX;
// Odd, so that rows start in different banks.
const PITCH: u32 = HV | 1u;
const P_PITCH: u32 = TX | 1u;

@group(0) @binding(1) var<storage, read> y: array<vec4<X_TYPE>>;
@group(0) @binding(2) var<storage, read> lse: array<f32>;
@group(0) @binding(3) var<storage, read> dy: array<vec4<X_TYPE>>;
@group(0) @binding(4) var<storage, read_write> dq_rows: array<vec4<X_TYPE>>;
@group(0) @binding(5) var<storage, read_write> delta: array<f32>;
@group(0) @binding(6) var<uniform> step: Step;

var<workgroup> held: array<vec4<f32>, 2u * BQ * PITCH>; // (2, BQ, HV): q, scaled; dy
var<workgroup> kv_tile: array<vec4<f32>, BK * PITCH>; // (BK, HV)
var<workgroup> ds_tile: array<vec4<f32>, BQ * P_PITCH>; // (BQ, TX): element x holds keys x, x + TX, x + 2 TX, x + 3 TX

const Q: u32 = 0u;
const DY: u32 = BQ * PITCH;

fn load_held(at: u32, y_at: u32, i0: u32, thread: u32) {
    for (var e = thread; e < BQ * HV; e += THREADS) {
        let i = i0 + e / HV;
        let x = e % HV;
        var q = vec4<f32>(0.0);
        var d = vec4<f32>(0.0);
        if i < TQ {
            q = vec4<f32>(q_quad(at + i * Q_ROW + x)) * SCALE;
            d = vec4<f32>(dy[y_at + i * CV + x]);
        }
        held[Q + e / HV * PITCH + x] = q;
        held[DY + e / HV * PITCH + x] = d;
    }
}

fn load_kv(at: u32, j0: u32, thread: u32) {
    for (var e = thread; e < BK * HV; e += THREADS) {
        let j = j0 + e / HV;
        var value = vec4<f32>(0.0);
        if j < TK {
            value = vec4<f32>(kv_quad(at + j * KV_ROW + e % HV));
        }
        kv_tile[e / HV * PITCH + e % HV] = value;
    }
}

// This thread's share of rowsum(dy * y): the columns at distance TX.
fn delta_share(y_at: u32, i0: u32, tx: u32, row: u32) -> f32 {
    var sum = 0.0;
    if i0 + row < TQ {
        for (var x = tx; x < HV; x += TX) {
            sum += dot(held[DY + row * PITCH + x], vec4<f32>(y[y_at + (i0 + row) * CV + x]));
        }
    }
    return sum;
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

// Products of the thread's rows of q or dy with its four rows of kv_tile.
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
    let at = head / NH * TQ * Q_ROW + head % NH * HV;
    let kv_at = head / NH * TK * KV_ROW + K_COLUMN + head % NH / (NH / KVH) * HV;
    let y_at = head / NH * TQ * CV + head % NH * HV;
    let entry = B_FIRST + head / NH;
    let rows = (B_FIRST * NH + head) * TQ;
    let tx = thread % TX;
    let ty = thread / TX;
    load_held(at, y_at, i0, thread);
    workgroupBarrier();
    for (var r = 0u; r < ROWS; r++) {
        ds_tile[(ty + TY * r) * P_PITCH + tx].x = delta_share(y_at, i0, tx, ty + TY * r);
    }
    workgroupBarrier();
    var row_delta: array<f32, ROWS>;
    var row_lse: array<f32, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        for (var x = 0u; x < TX; x++) {
            row_delta[r] += ds_tile[(ty + TY * r) * P_PITCH + x].x;
        }
        let i = i0 + ty + TY * r;
        row_lse[r] = lse[rows + min(i, TQ - 1u)];
        if i < TQ && tx == 0u {
            delta[rows + i] = row_delta[r];
        }
    }
    var dq: array<array<vec4<f32>, COLUMNS>, ROWS>;
    let end = keys_end(entry, i0 + BQ);
    for (var j0 = first_key(entry, i0) / BK * BK; j0 < end; j0 += BK) {
        workgroupBarrier();
        load_kv(kv_at + KV, j0, thread);
        workgroupBarrier();
        let dp = products(DY, tx, ty);
        workgroupBarrier();
        load_kv(kv_at, j0, thread);
        workgroupBarrier();
        let s = products(Q, tx, ty);
        let j = j0 + tx + vec4<u32>(0u, TX, 2u * TX, 3u * TX);
        for (var r = 0u; r < ROWS; r++) {
            let i = i0 + ty + TY * r;
            var kept = vec4<f32>(1.0);
            if DROPOUT {
                kept = keep((rows + i) * TK + j, KEEP_SCALE);
            }
            let seen = sees(vec4<u32>(mask_word(entry, i)), vec4<u32>(i), j) & vec4<bool>(i < TQ);
            let score = biased(s[r], entry * NH + head % NH, vec4<u32>(i), j);
            let p = exp(select(vec4<f32>(MASKED), score - row_lse[r], seen));
            ds_tile[(ty + TY * r) * P_PITCH + tx] = p * (kept * dp[r] - row_delta[r]);
        }
        workgroupBarrier();
        for (var x = 0u; x < TX; x++) {
            for (var c = 0u; c < COLUMNS; c++) {
                if tx + TX * c < HV {
                    let k = four(x, tx + TX * c);
                    for (var r = 0u; r < ROWS; r++) {
                        dq[r][c] += k * ds_tile[(ty + TY * r) * P_PITCH + x];
                    }
                }
            }
        }
    }
    for (var r = 0u; r < ROWS; r++) {
        for (var c = 0u; c < COLUMNS; c++) {
            if i0 + ty + TY * r < TQ && tx + TX * c < HV {
                dq_rows[at + (i0 + ty + TY * r) * Q_ROW + tx + TX * c] = vec4<X_TYPE>(dq[r][c] * SCALE);
            }
        }
    }
}
