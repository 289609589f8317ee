// attention_backward_query_tiled: dq, and delta = rowsum(dy * y), with the probabilities made again. For GPUs.
//
//   p = exp(SCALE q k^T + bias - lse);  dp = keep * (dy v^T);  ds = p (dp - delta);  dq = SCALE ds k
//   q (B, TQ, C);  k, v (B, TK, KVC): with q or with each other side by side;  y, dy (B, TQ, C);  lse, delta (B, NH, TQ)
//   dq as q; where q, k and v are side by side, the q part of them all
//
// A workgroup owns BQ queries of one head: their q and dy are staged once, blocks of BK keys pass, v and then k in the same
// tile. Threads are laid out as in attention_tiled. Writes the q part of dqkv; the other two come from attention_backward_key.
// Dao 2023 (FlashAttention-2), algorithm 2, without its atomics. Reference: src/ops/attention_backward.rs
// use: index attention attention_slabs
const TX: u32 = 8u;
const TY: u32 = 8u;
const ROWS: u32 = 1u;
// Whether compilers may unroll the loops of products: faster on some GPUs, on others more than their registers hold.
const UNROLL: u32 = 0u;

const THREADS: u32 = TX * TY;
const BQ: u32 = TY * ROWS;
const BLOCKS: u32 = (TQ + BQ - 1u) / BQ;

@group(0) @binding(1) var<storage, read> y: array<vec4<X_TYPE>>;
@group(0) @binding(2) var<storage, read> lse: array<f32>;
@group(0) @binding(3) var<storage, read> dy: array<vec4<X_TYPE>>;
@group(0) @binding(4) var<storage, read_write> dq_rows: array<vec4<X_TYPE>>;
@group(0) @binding(5) var<storage, read_write> delta: array<f32>;
@group(0) @binding(6) var<uniform> step: Step;

var<workgroup> held: array<vec4<X_TYPE>, 2u * BQ * PITCH>; // (2, BQ, HV): q; dy
var<workgroup> ds_tile: array<vec4<f32>, BQ * SLAB_PITCH>; // (BQ, TX): element x holds keys x, x + TX, x + 2 TX, x + 3 TX

const Q: u32 = 0u;
const DY: u32 = BQ * PITCH;
alias Scores = array<vec4<f32>, ROWS>;
alias Sums = array<array<vec4<f32>, COLUMNS>, ROWS>;

const K: u32 = 0u;
const V: u32 = 1u;

// Where the keys of the head begin.
var<private> kv_at: u32;

fn passing(part: u32, row: u32, x: u32) -> vec4<X_TYPE> {
    return kv_quad(kv_at + min(row, TK - 1u) * KV_ROW + part * KV + x);
}

// Queries past the end repeat the last one and are not stored.
fn load_held(at: u32, y_at: u32, i0: u32, thread: u32) {
    for (var e = thread; e < BQ * HV; e += THREADS) {
        let i = min(i0 + e / HV, TQ - 1u);
        held[Q + e / HV * PITCH + e % HV] = q_quad(at + i * Q_ROW + e % HV);
        held[DY + e / HV * PITCH + e % HV] = dy[y_at + i * CV + e % HV];
    }
}

// This thread's share of rowsum(dy * y): the columns at distance TX.
fn delta_share(y_at: u32, i0: u32, tx: u32, row: u32) -> f32 {
    var sum = 0.0;
    if i0 + row < TQ {
        for (var x = tx; x < HV; x += TX) {
            sum += dot(vec4<f32>(held[DY + row * PITCH + x]), vec4<f32>(y[y_at + (i0 + row) * CV + x]));
        }
    }
    return sum;
}

// Adds the products of the thread's rows of what is held from `part` on with its four rows of a slab of columns.
fn multiply(sums: ptr<function, Scores>, part: u32, slab: u32, first: u32, tx: u32, ty: u32, turns: u32) {
    for (var x = 0u; x < TX * turns; x++) {
        if HV % TX == 0u || slab * TX + x < HV {
            let rows = four_of_columns(first, tx, x);
            for (var r = 0u; r < ROWS; r++) {
                (*sums)[r] += vec4<f32>(held[part + (ty + TY * r) * PITCH + slab * TX + x]) * rows;
            }
        }
    }
}

// Adds what the rows of a slab of rows give with their weights in ds_tile.
fn accumulate(sums: ptr<function, Sums>, slab: u32, first: u32, tx: u32, ty: u32, turns: u32) {
    for (var x = 0u; x < ACROSS * turns; x++) {
        if TX % ACROSS == 0u || slab * ACROSS + x < TX {
            for (var c = 0u; c < COLUMNS; c++) {
                if HV % TX == 0u || tx + TX * c < HV {
                    let rows = four_of_rows(first, x, tx + TX * c);
                    for (var r = 0u; r < ROWS; r++) {
                        (*sums)[r][c] += rows * ds_tile[(ty + TY * r) * SLAB_PITCH + slab * ACROSS + x];
                    }
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
    let tile = workgroup_index(id, count);
    if tile >= ENTRIES * NH * BLOCKS {
        return;
    }
    let head = tile / BLOCKS;
    // The last queries see the most keys: they start first.
    let i0 = (BLOCKS - 1u - tile % BLOCKS) * BQ;
    let at = head / NH * TQ * Q_ROW + head % NH * HV;
    kv_at = head / NH * TK * KV_ROW + K_COLUMN + head % NH / (NH / KVH) * HV;
    let y_at = head / NH * TQ * CV + head % NH * HV;
    let entry = B_FIRST + head / NH;
    let rows = (B_FIRST * NH + head) * TQ;
    let tx = thread % TX;
    let ty = thread / TX;
    load_held(at, y_at, i0, thread);
    workgroupBarrier();
    for (var r = 0u; r < ROWS; r++) {
        ds_tile[(ty + TY * r) * SLAB_PITCH + tx].x = delta_share(y_at, i0, tx, ty + TY * r);
    }
    workgroupBarrier();
    var row_delta: array<f32, ROWS>;
    var row_lse: array<f32, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        for (var x = 0u; x < TX; x++) {
            row_delta[r] += ds_tile[(ty + TY * r) * SLAB_PITCH + x].x;
        }
        let i = i0 + ty + TY * r;
        row_lse[r] = lse[rows + min(i, TQ - 1u)];
        if i < TQ && tx == 0u {
            delta[rows + i] = row_delta[r];
        }
    }
    var dq: Sums;
    let end = keys_end(entry, i0 + BQ);
    let begin = first_key(entry, i0) / BLOCK * BLOCK;
    // Always 1, but compilers do not know: a load under a condition is not moved behind the products that hide it.
    let one = count.z;
    let turns = select(one, 1u, UNROLL == 1u);
    // Where the next slab is staged.
    var first = 0u;
    var ahead = fetch_columns(V, begin, 0u, thread);
    for (var j0 = begin; j0 < end; j0 += BLOCK) {
        var dp: Scores;
        for (var slab = 0u; slab < COLUMN_SLABS * one; slab++) {
            stage_columns(ahead, first, thread);
            if slab + 1u < COLUMN_SLABS * one {
                ahead = fetch_columns(V, j0, slab + 1u, thread);
            } else {
                ahead = fetch_columns(K, j0, 0u, thread);
            }
            workgroupBarrier();
            multiply(&dp, DY, slab, first, tx, ty, turns);
            first = SLAB - first;
        }
        var s: Scores;
        for (var slab = 0u; slab < COLUMN_SLABS * one; slab++) {
            stage_columns(ahead, first, thread);
            if slab + 1u < COLUMN_SLABS * one {
                ahead = fetch_columns(K, j0, slab + 1u, thread);
            } else {
                ahead = fetch_rows(K, j0, 0u, thread);
            }
            workgroupBarrier();
            multiply(&s, Q, slab, first, tx, ty, turns);
            first = SLAB - first;
        }
        let j = j0 + tx + vec4<u32>(0u, TX, 2u * TX, 3u * TX);
        for (var r = 0u; r < ROWS; r++) {
            let i = i0 + ty + TY * r;
            var kept = vec4<f32>(1.0);
            if DROPOUT {
                kept = keep((rows + i) * TK + j, KEEP_SCALE);
            }
            let seen = sees(vec4<u32>(mask_word(entry, i)), vec4<u32>(i), j) & vec4<bool>(i < TQ);
            let score = biased(s[r] * SCALE, entry * NH + head % NH, vec4<u32>(i), j);
            let p = exp(select(vec4<f32>(MASKED), score - row_lse[r], seen));
            ds_tile[(ty + TY * r) * SLAB_PITCH + tx] = p * (kept * dp[r] - row_delta[r]);
        }
        for (var slab = 0u; slab < ROW_SLABS * one; slab++) {
            stage_rows(ahead, first, thread);
            if slab + 1u < ROW_SLABS * one {
                ahead = fetch_rows(K, j0, slab + 1u, thread);
            } else if j0 + BLOCK < end {
                ahead = fetch_columns(V, j0 + BLOCK, 0u, thread);
            }
            workgroupBarrier();
            accumulate(&dq, slab, first, tx, ty, turns);
            first = SLAB - first;
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
