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
// use: index attention attention_slabs
const TX: u32 = 8u;
const TY: u32 = 8u;
const ROWS: u32 = 1u;
// Whether compilers may unroll the loops of products: faster on some GPUs, on others more than their registers hold.
const UNROLL: u32 = 0u;

const THREADS: u32 = TX * TY;
const BK: u32 = TY * ROWS;
const BLOCKS: u32 = (TK + BK - 1u) / BK;

@group(0) @binding(1) var<storage, read> lse: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<vec4<X_TYPE>>;
@group(0) @binding(3) var<storage, read> delta: array<f32>;
@group(0) @binding(4) var<storage, read_write> dkv_rows: array<vec4<X_TYPE>>;
@group(0) @binding(5) var<uniform> step: Step;

var<workgroup> held: array<vec4<X_TYPE>, 2u * BK * PITCH>; // (2, BK, HV): k; v
var<workgroup> p_tile: array<vec4<f32>, BK * SLAB_PITCH>; // (BK, TX): element x holds queries x, x + TX, x + 2 TX, x + 3 TX

const K: u32 = 0u;
const V: u32 = BK * PITCH;
alias Scores = array<vec4<f32>, ROWS>;
alias Sums = array<array<vec4<f32>, COLUMNS>, ROWS>;

const Q: u32 = 0u;
const DY: u32 = 1u;

// Where q and dy of the head begin.
var<private> q_at: u32;
var<private> dy_at: u32;

fn passing(part: u32, row: u32, x: u32) -> vec4<X_TYPE> {
    let i = min(row, TQ - 1u);
    if part == Q {
        return q_quad(q_at + i * Q_ROW + x);
    }
    return dy[dy_at + i * CV + x];
}

// Keys past the end repeat the last one and are not stored.
fn load_held(at: u32, j0: u32, thread: u32) {
    for (var e = thread; e < BK * HV; e += THREADS) {
        let row_at = at + min(j0 + e / HV, TK - 1u) * KV_ROW + e % HV;
        held[K + e / HV * PITCH + e % HV] = kv_quad(row_at);
        held[V + e / HV * PITCH + e % HV] = kv_quad(row_at + KV);
    }
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

// Adds what the rows of a slab of rows give with their weights in p_tile.
fn accumulate(sums: ptr<function, Sums>, slab: u32, first: u32, tx: u32, ty: u32, turns: u32) {
    for (var x = 0u; x < ACROSS * turns; x++) {
        if TX % ACROSS == 0u || slab * ACROSS + x < TX {
            for (var c = 0u; c < COLUMNS; c++) {
                if HV % TX == 0u || tx + TX * c < HV {
                    let rows = four_of_rows(first, x, tx + TX * c);
                    for (var r = 0u; r < ROWS; r++) {
                        (*sums)[r][c] += rows * p_tile[(ty + TY * r) * SLAB_PITCH + slab * ACROSS + x];
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
    let turns = select(one, 1u, UNROLL == 1u);
    // The heads of queries that share these keys, one after the other.
    for (var n = 0u; n < NH / KVH; n++) {
        let head = kv_head % KVH * (NH / KVH) + n;
        q_at = batch * TQ * Q_ROW + head * HV;
        dy_at = batch * TQ * CV + head * HV;
        let rows = (entry * NH + head) * TQ;
        // Where the next slab is staged.
        var first = 0u;
        var ahead = fetch_columns(Q, begin, 0u, thread);
        // The slab of the head before is read to its end.
        workgroupBarrier();
        for (var i0 = begin; i0 < end; i0 += BLOCK) {
            let i = i0 + tx + vec4<u32>(0u, TX, 2u * TX, 3u * TX);
            let row = rows + min(i, vec4<u32>(TQ - 1u));
            let word = mask_words(entry, i);
            var row_lse: vec4<f32>;
            var row_delta: vec4<f32>;
            if i0 < end * one {
                row_lse = vec4<f32>(lse[row.x], lse[row.y], lse[row.z], lse[row.w]);
                row_delta = vec4<f32>(delta[row.x], delta[row.y], delta[row.z], delta[row.w]);
            }
            var p: Scores;
            for (var slab = 0u; slab < COLUMN_SLABS * one; slab++) {
                stage_columns(ahead, first, thread);
                if slab + 1u < COLUMN_SLABS * one {
                    ahead = fetch_columns(Q, i0, slab + 1u, thread);
                } else {
                    ahead = fetch_columns(DY, i0, 0u, thread);
                }
                workgroupBarrier();
                multiply(&p, K, slab, first, tx, ty, turns);
                first = SLAB - first;
            }
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
                p_tile[(ty + TY * r) * SLAB_PITCH + tx] = kept[r] * p[r];
            }
            var dp: Scores;
            for (var slab = 0u; slab < COLUMN_SLABS * one; slab++) {
                stage_columns(ahead, first, thread);
                if slab + 1u < COLUMN_SLABS * one {
                    ahead = fetch_columns(DY, i0, slab + 1u, thread);
                } else {
                    ahead = fetch_rows(DY, i0, 0u, thread);
                }
                workgroupBarrier();
                multiply(&dp, V, slab, first, tx, ty, turns);
                first = SLAB - first;
            }
            for (var slab = 0u; slab < ROW_SLABS * one; slab++) {
                stage_rows(ahead, first, thread);
                if slab + 1u < ROW_SLABS * one {
                    ahead = fetch_rows(DY, i0, slab + 1u, thread);
                } else {
                    ahead = fetch_rows(Q, i0, 0u, thread);
                }
                workgroupBarrier();
                accumulate(&dv, slab, first, tx, ty, turns);
                first = SLAB - first;
            }
            // All weights of dv have been read.
            workgroupBarrier();
            for (var r = 0u; r < ROWS; r++) {
                p_tile[(ty + TY * r) * SLAB_PITCH + tx] = p[r] * (kept[r] * dp[r] - row_delta);
            }
            for (var slab = 0u; slab < ROW_SLABS * one; slab++) {
                stage_rows(ahead, first, thread);
                if slab + 1u < ROW_SLABS * one {
                    ahead = fetch_rows(Q, i0, slab + 1u, thread);
                } else if i0 + BLOCK < end {
                    ahead = fetch_columns(Q, i0 + BLOCK, 0u, thread);
                }
                workgroupBarrier();
                accumulate(&dk, slab, first, tx, ty, turns);
                first = SLAB - first;
            }
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
