// attention_tiled: y = softmax(mask(SCALE q k^T + bias)) v per head, fused, with an online softmax. For GPUs.
//
//   q (B, TQ, C);  k, v (B, TK, KVC): with q or with each other side by side;  y (B, TQ, C)
//   lse (B, NH, TQ): log-sum-exp, for backward, MASKED for a query that sees no key, whose y is 0
//
// A workgroup owns BQ queries of one head, whose q is staged once. Blocks of keys pass, first slabs of columns of k, then slabs of
// rows of v. A thread owns ROWS queries at distance TY, and with each block four keys at distance TX, then COLUMNS vec4 of the
// output, also at distance TX: neighbours read neighbouring banks. Blocks that no query sees are never visited.
// Dao et al. 2022, algorithm 1. Reference: src/ops/attention.rs
// use: index attention attention_slabs
const TX: u32 = 8u;
const TY: u32 = 8u;
const ROWS: u32 = 2u;
// Whether compilers may unroll the loops of products: faster on some GPUs, on others more than their registers hold.
const UNROLL: u32 = 0u;

const THREADS: u32 = TX * TY;
const BQ: u32 = TY * ROWS;
const BLOCKS: u32 = (TQ + BQ - 1u) / BQ;

@group(0) @binding(1) var<storage, read_write> y: array<vec4<X_TYPE>>;
@group(0) @binding(2) var<storage, read_write> lse: array<f32>;
@group(0) @binding(3) var<uniform> step: Step;

var<workgroup> q_tile: array<vec4<X_TYPE>, BQ * PITCH>; // (BQ, HV)
var<workgroup> p_tile: array<vec4<f32>, BQ * SLAB_PITCH>; // (BQ, TX): element x holds keys x, x + TX, x + 2 TX, x + 3 TX
var<workgroup> shares: array<f32, BQ * TX>; // each thread's share of what a row reduces: its maximum, then its sum

const K: u32 = 0u;
const V: u32 = 1u;

// Where the keys of the head begin.
var<private> kv_at: u32;

fn passing(part: u32, row: u32, x: u32) -> vec4<X_TYPE> {
    return kv_quad(kv_at + min(row, TK - 1u) * KV_ROW + part * KV + x);
}

fn load_q(at: u32, i0: u32, thread: u32) {
    for (var e = thread; e < BQ * HV; e += THREADS) {
        // Queries past the end repeat the last one and are not stored.
        q_tile[e / HV * PITCH + e % HV] = q_quad(at + min(i0 + e / HV, TQ - 1u) * Q_ROW + e % HV);
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
    let entry = B_FIRST + head / NH;
    let first_row = (B_FIRST * NH + head) * TQ + i0;
    let tx = thread % TX;
    let ty = thread / TX;
    var o: array<array<vec4<f32>, COLUMNS>, ROWS>;
    var m: array<f32, ROWS>;
    var l: array<f32, ROWS>; // over this thread's keys
    for (var r = 0u; r < ROWS; r++) {
        m[r] = MASKED;
    }
    load_q(at, i0, thread);
    let end = keys_end(entry, i0 + BQ);
    let begin = first_key(entry, i0) / BLOCK * BLOCK;
    // Where the next slab is staged.
    var first = 0u;
    // Always 1, but compilers do not know: a load under a condition is not moved behind the products that hide it.
    let one = count.z;
    let turns = select(one, 1u, UNROLL == 1u);
    var ahead = fetch_columns(K, begin, 0u, thread);
    for (var j0 = begin; j0 < end; j0 += BLOCK) {
        var p: array<vec4<f32>, ROWS>;
        for (var slab = 0u; slab < COLUMN_SLABS * one; slab++) {
            stage_columns(ahead, first, thread);
            if slab + 1u < COLUMN_SLABS * one {
                ahead = fetch_columns(K, j0, slab + 1u, thread);
            } else {
                ahead = fetch_rows(V, j0, 0u, thread);
            }
            workgroupBarrier();
            for (var x = 0u; x < TX * turns; x++) {
                if HV % TX == 0u || slab * TX + x < HV {
                    let k = four_of_columns(first, tx, x);
                    for (var r = 0u; r < ROWS; r++) {
                        p[r] += vec4<f32>(q_tile[(ty + TY * r) * PITCH + slab * TX + x]) * k;
                    }
                }
            }
            first = SLAB - first;
        }
        let j = j0 + tx + vec4<u32>(0u, TX, 2u * TX, 3u * TX);
        for (var r = 0u; r < ROWS; r++) {
            let i = i0 + ty + TY * r;
            let seen = sees(vec4<u32>(mask_word(entry, i)), vec4<u32>(i), j);
            p[r] = select(vec4<f32>(MASKED), biased(p[r] * SCALE, entry * NH + head % NH, vec4<u32>(i), j), seen);
            shares[(ty + TY * r) * TX + tx] = max(max(p[r].x, p[r].y), max(p[r].z, p[r].w));
        }
        workgroupBarrier();
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
                p[r] *= keep((first_row + ty + TY * r) * TK + j, KEEP_SCALE);
            }
            p_tile[(ty + TY * r) * SLAB_PITCH + tx] = p[r];
        }
        for (var slab = 0u; slab < ROW_SLABS * one; slab++) {
            stage_rows(ahead, first, thread);
            if slab + 1u < ROW_SLABS * one {
                ahead = fetch_rows(V, j0, slab + 1u, thread);
            } else if j0 + BLOCK < end {
                ahead = fetch_columns(K, j0 + BLOCK, 0u, thread);
            }
            workgroupBarrier();
            for (var x = 0u; x < ACROSS * turns; x++) {
                if TX % ACROSS == 0u || slab * ACROSS + x < TX {
                    for (var c = 0u; c < COLUMNS; c++) {
                        if HV % TX == 0u || tx + TX * c < HV {
                            let v = four_of_rows(first, x, tx + TX * c);
                            for (var r = 0u; r < ROWS; r++) {
                                o[r][c] += v * p_tile[(ty + TY * r) * SLAB_PITCH + slab * ACROSS + x];
                            }
                        }
                    }
                }
            }
            first = SLAB - first;
        }
    }
    for (var r = 0u; r < ROWS; r++) {
        shares[(ty + TY * r) * TX + tx] = l[r];
    }
    workgroupBarrier();
    for (var r = 0u; r < ROWS; r++) {
        let i = i0 + ty + TY * r;
        if i < TQ {
            let has_keys = m[r] > MASKED;
            var sum = 0.0;
            for (var x = 0u; x < TX; x++) {
                sum += shares[(ty + TY * r) * TX + x];
            }
            for (var c = 0u; c < COLUMNS; c++) {
                if HV % TX == 0u || tx + TX * c < HV {
                    let value = select(vec4<f32>(0.0), o[r][c] / sum, has_keys);
                    y[(head / NH * TQ + i) * CV + head % NH * HV + tx + TX * c] = vec4<X_TYPE>(value);
                }
            }
            if tx == 0u {
                lse[first_row + ty + TY * r] = select(MASKED, m[r] + log(sum), has_keys);
            }
        }
    }
}
