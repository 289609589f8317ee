// attention_tiled: y = softmax(mask(SCALE q k^T + bias)) v per head, fused, with an online softmax. For GPUs.
//
//   q (B, TQ, C);  k, v (B, TK, KVC): with q or with each other side by side;  y (B, TQ, C)
//   lse (B, NH, TQ): log-sum-exp, for backward, MASKED for a query that sees no key, whose y is 0
//
// A workgroup owns BQ queries of one head, whose q is staged once. Blocks of BK keys pass, in slabs: TX quads of columns of k at a
// time, then ACROSS keys of each four of v. While one slab is multiplied the next is on its way from memory, and it is staged
// beside that one. A thread owns ROWS queries at distance TY, and with each block four keys at distance TX, then COLUMNS vec4 of
// the output, also at distance TX: neighbours read neighbouring banks. Blocks that no query sees are never visited.
// Dao et al. 2022, algorithm 1. Reference: src/ops/attention.rs
// use: index attention
const TX: u32 = 8u;
const TY: u32 = 8u;
const ROWS: u32 = 2u;

const THREADS: u32 = TX * TY;
const BQ: u32 = TY * ROWS;
const BK: u32 = TX * 4u;
const BLOCKS: u32 = (TQ + BQ - 1u) / BQ;
const COLUMNS: u32 = (HV + TX - 1u) / TX;
// Slabs of k, of TX columns, and of v, of four times ACROSS keys.
const K_SLABS: u32 = COLUMNS;
const ACROSS: u32 = max(TX / K_SLABS, 1u);
const V_SLABS: u32 = (TX + ACROSS - 1u) / ACROSS;
// Odd, so that rows start in different banks.
const PITCH: u32 = HV | 1u;
const P_PITCH: u32 = TX | 1u;
const SLAB: u32 = max(BK * P_PITCH, 4u * ACROSS * PITCH);
// Quads of a slab that a thread fetches.
const K_QUADS: u32 = BK * TX;
const V_QUADS: u32 = 4u * ACROSS * HV;
const LOADS: u32 = (max(K_QUADS, V_QUADS) + THREADS - 1u) / THREADS;

@group(0) @binding(1) var<storage, read_write> y: array<vec4<X_TYPE>>;
@group(0) @binding(2) var<storage, read_write> lse: array<f32>;
@group(0) @binding(3) var<uniform> step: Step;

var<workgroup> q_tile: array<vec4<X_TYPE>, BQ * PITCH>; // (BQ, HV)
var<workgroup> slabs: array<vec4<X_TYPE>, 2u * SLAB>; // twice (BK, TX) of k or (4 ACROSS, HV) of v
var<workgroup> p_tile: array<vec4<f32>, BQ * P_PITCH>; // (BQ, TX): element x holds keys x, x + TX, x + 2 TX, x + 3 TX
var<workgroup> shares: array<f32, BQ * TX>; // each thread's share of what a row reduces: its maximum, then its sum

alias Ahead = array<vec4<X_TYPE>, LOADS>;

fn load_q(at: u32, i0: u32, thread: u32) {
    for (var e = thread; e < BQ * HV; e += THREADS) {
        // Queries past the end repeat the last one and are not stored.
        q_tile[e / HV * PITCH + e % HV] = q_quad(at + min(i0 + e / HV, TQ - 1u) * Q_ROW + e % HV);
    }
}

// This thread's quads of TX columns, from quad `x` on, of the keys from j0 on. Past the end the last key repeats, which is masked,
// and the last column, which is not multiplied.
fn fetch_k(at: u32, j0: u32, x: u32, thread: u32) -> Ahead {
    var ahead: Ahead;
    for (var n = 0u; n < LOADS; n++) {
        let e = min(thread + n * THREADS, K_QUADS - 1u);
        ahead[n] = kv_quad(at + min(j0 + e / TX, TK - 1u) * KV_ROW + min(x + e % TX, HV - 1u));
    }
    return ahead;
}

fn stage_k(ahead: Ahead, first: u32, thread: u32) {
    for (var n = 0u; n < LOADS; n++) {
        let e = thread + n * THREADS;
        if e < K_QUADS {
            slabs[first + e / TX * P_PITCH + e % TX] = ahead[n];
        }
    }
}

// This thread's quads of the values of keys j0 + x to j0 + x + ACROSS - 1, and of those at distance TX, 2 TX and 3 TX.
fn fetch_v(at: u32, j0: u32, x: u32, thread: u32) -> Ahead {
    var ahead: Ahead;
    for (var n = 0u; n < LOADS; n++) {
        let e = min(thread + n * THREADS, V_QUADS - 1u);
        let row = e / HV;
        let j = j0 + x + row / 4u + row % 4u * TX;
        ahead[n] = kv_quad(at + min(j, TK - 1u) * KV_ROW + e % HV);
    }
    return ahead;
}

fn stage_v(ahead: Ahead, first: u32, thread: u32) {
    for (var n = 0u; n < LOADS; n++) {
        let e = thread + n * THREADS;
        if e < V_QUADS {
            slabs[first + e / HV * PITCH + e % HV] = ahead[n];
        }
    }
}

// Four quads of a slab, from `at` on at a distance.
fn four(at: u32, distance: u32) -> mat4x4<f32> {
    return mat4x4<f32>(
        vec4<f32>(slabs[at]),
        vec4<f32>(slabs[at + distance]),
        vec4<f32>(slabs[at + 2u * distance]),
        vec4<f32>(slabs[at + 3u * distance]),
    );
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
    let begin = first_key(entry, i0) / BK * BK;
    // Where the next slab is staged.
    var first = 0u;
    // Always 1, but compilers do not know: a load under a condition is not moved behind the products that hide it.
    let one = count.z;
    var ahead = fetch_k(kv_at, begin, 0u, thread);
    for (var j0 = begin; j0 < end; j0 += BK) {
        var p: array<vec4<f32>, ROWS>;
        for (var slab = 0u; slab < K_SLABS; slab++) {
            stage_k(ahead, first, thread);
            if slab + 1u < K_SLABS * one {
                ahead = fetch_k(kv_at, j0, (slab + 1u) * TX, thread);
            } else {
                ahead = fetch_v(kv_at + KV, j0, 0u, thread);
            }
            workgroupBarrier();
            for (var x = 0u; x < TX; x++) {
                if HV % TX == 0u || slab * TX + x < HV {
                    let k = four(first + tx * P_PITCH + x, TX * P_PITCH);
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
            p_tile[(ty + TY * r) * P_PITCH + tx] = p[r];
        }
        for (var slab = 0u; slab < V_SLABS; slab++) {
            stage_v(ahead, first, thread);
            if slab + 1u < V_SLABS * one {
                ahead = fetch_v(kv_at + KV, j0, (slab + 1u) * ACROSS, thread);
            } else if j0 + BK < end {
                ahead = fetch_k(kv_at, j0 + BK, 0u, thread);
            }
            workgroupBarrier();
            for (var x = 0u; x < ACROSS; x++) {
                if TX % ACROSS == 0u || slab * ACROSS + x < TX {
                    for (var c = 0u; c < COLUMNS; c++) {
                        if HV % TX == 0u || tx + TX * c < HV {
                            let v = four(first + 4u * x * PITCH + tx + TX * c, PITCH);
                            for (var r = 0u; r < ROWS; r++) {
                                o[r][c] += v * p_tile[(ty + TY * r) * P_PITCH + slab * ACROSS + x];
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
