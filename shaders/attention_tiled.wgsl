// attention_tiled: y = softmax(mask(SCALE q k^T + bias)) v per head, fused, with an online softmax. For GPUs.
//
//   q (B, TQ, C);  k, v (B, TK, KVC): with q or with each other side by side;  y (B, TQ, C)
//   lse (B, NH, TQ): log-sum-exp, for backward, MASKED for a query that sees no key, whose y is 0
//
// A workgroup owns BQ queries of one head: their q is staged once, blocks of BK keys pass, k and then v in the same tile. A thread
// owns ROWS queries at distance TY, and with each block four keys at distance TX, then COLUMNS vec4 of the output, also at
// distance TX: neighbours read neighbouring banks. Blocks that no query sees are never visited.
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
// Odd, so that rows start in different banks.
const PITCH: u32 = HV | 1u;
const P_PITCH: u32 = TX | 1u;

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
        if i < TQ {
            value = vec4<f32>(q_quad(at + i * Q_ROW + e % HV)) * SCALE;
        }
        q_tile[e / HV * PITCH + e % HV] = value;
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

// Element x of the four rows of kv_tile at `row` and at distance TX.
fn four(row: u32, x: u32) -> mat4x4<f32> {
    return mat4x4<f32>(
        kv_tile[row * PITCH + x],
        kv_tile[(row + TX) * PITCH + x],
        kv_tile[(row + 2u * TX) * PITCH + x],
        kv_tile[(row + 3u * TX) * PITCH + x],
    );
}

// The thread's scores, those of keys that a query does not see masked.
fn scores(entry: u32, head: u32, i0: u32, j0: u32, tx: u32, ty: u32) -> array<vec4<f32>, ROWS> {
    var s: array<vec4<f32>, ROWS>;
    for (var x = 0u; x < HV; x++) {
        let k = four(tx, x);
        for (var r = 0u; r < ROWS; r++) {
            s[r] += q_tile[(ty + TY * r) * PITCH + x] * k;
        }
    }
    let j = j0 + tx + vec4<u32>(0u, TX, 2u * TX, 3u * TX);
    for (var r = 0u; r < ROWS; r++) {
        let i = i0 + ty + TY * r;
        let seen = sees(vec4<u32>(mask_word(entry, i)), vec4<u32>(i), j);
        s[r] = select(vec4<f32>(MASKED), biased(s[r], entry * NH + head, vec4<u32>(i), j), seen);
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
    for (var j0 = first_key(entry, i0) / BK * BK; j0 < end; j0 += BK) {
        workgroupBarrier();
        load_kv(kv_at, j0, thread);
        workgroupBarrier();
        var p = scores(entry, head % NH, i0, j0, tx, ty);
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
                p[r] *= keep((first_row + ty + TY * r) * TK + j0 + tx + vec4<u32>(0u, TX, 2u * TX, 3u * TX), KEEP_SCALE);
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
        if i < TQ {
            let has_keys = m[r] > MASKED;
            var sum = 0.0;
            for (var x = 0u; x < TX; x++) {
                sum += shares[(ty + TY * r) * TX + x];
            }
            for (var c = 0u; c < COLUMNS; c++) {
                if tx + TX * c < HV {
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
