// attention_backward_key_cooperative: dk and dv, with the probabilities made again, on cooperative matrices: f16 products
// summed in f32. For GPUs that have them.
//
//   p = exp(SCALE q k^T + bias - lse);  dv = (keep * p)^T dy;  ds = p (keep * (dy v^T) - delta);  dk = SCALE ds^T q
//   q (B, TQ, C);  k, v (B, TK, KVC): with q or with each other side by side;  dy (B, TQ, C);  lse, delta (B, NH, TQ)
//   dkv as k and v; where q, k and v are side by side, their parts of them all
//
// A workgroup owns OWNED keys of one head: their k and v are staged once, blocks of PASSING queries pass, from the first that
// sees a key to the last, one head of queries after the other: q, then dy, then q again in the same slice, each fetched into
// registers while the one before it is in use. p and then ds are f16. Writes the k and v parts of dqkv.
// Dao 2023 (FlashAttention-2), algorithm 2, without its atomics. Reference: src/ops/attention_backward.rs
// use: attention cooperative_heads
enable f16;
enable wgpu_cooperative_matrix;

// Keys of a workgroup, and queries that pass at a time.
const OWNED: u32 = 64u;
const PASSING: u32 = 32u;
// Matrices of a subgroup, down (1 or 2) and across (1 to 4).
const TM: u32 = 2u;
const TN: u32 = 2u;
// Lanes of a subgroup. Where it has others the result is the same, but units lie idle or parts wait for each other.
const LANES: u32 = 32u;

// k, and v.
const OWNED_PARTS: u32 = 2u;
const V: u32 = OWNED * PITCH;
const BLOCKS: u32 = (TK + OWNED - 1u) / OWNED;

@group(0) @binding(1) var<storage, read> lse: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<vec4<X_TYPE>>;
@group(0) @binding(3) var<storage, read> delta: array<f32>;
@group(0) @binding(4) var<storage, read_write> dkv_rows: array<vec4<X_TYPE>>;
@group(0) @binding(5) var<uniform> step: Step;

fn load_owned(at: u32, j0: u32, thread: u32) {
    for (var e = thread; e < OWNED * HV; e += THREADS) {
        let j = j0 + e / HV;
        var k = vec4<f16>();
        var v = vec4<f16>();
        if j < TK {
            k = vec4<f16>(kv_quad(at + j * KV_ROW + e % HV));
            v = vec4<f16>(kv_quad(at + j * KV_ROW + KV + e % HV));
        }
        put_owned(e / HV * PITCH + e % HV * 4u, k);
        put_owned(V + e / HV * PITCH + e % HV * 4u, v);
    }
}

// Loads this thread's quads of queries.
fn fetch_q(at: u32, i0: u32, thread: u32) {
    for (var n = 0u; n < NEXT; n++) {
        let e = thread + n * THREADS;
        let i = i0 + e / HV;
        next[n] = select(vec4<f16>(), vec4<f16>(q_quad(at + min(i, TQ - 1u) * Q_ROW + e % HV)), i < TQ);
    }
}

fn fetch_dy(at: u32, i0: u32, thread: u32) {
    for (var n = 0u; n < NEXT; n++) {
        let e = thread + n * THREADS;
        let i = i0 + e / HV;
        next[n] = select(vec4<f16>(), vec4<f16>(dy[at + min(i, TQ - 1u) * CV + e % HV]), i < TQ);
    }
}

// A matrix of dk or dv, through workgroup memory. Called by all of a workgroup.
fn finish(matrix: SUM_MATRIX, row: u32, column: u32, at: u32, scale: f32, lane: Lane) {
    let first = lane.part * (TILE * M_PITCH);
    workgroupBarrier();
    put_sum_matrix(first, M_PITCH, matrix);
    workgroupBarrier();
    for (var e = lane.index; lane.stores && e < TILE * TILE / 4u; e += lane.count) {
        let quad = sum_quad(first + e / (TILE / 4u) * M_PITCH + e % (TILE / 4u) * 4u);
        let j = row + e / (TILE / 4u);
        if j < TK {
            dkv_rows[at + j * KV_ROW + column / 4u + e % (TILE / 4u)] = vec4<X_TYPE>(quad * scale);
        }
    }
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_invocation_id) index: u32,
    @builtin(subgroup_size) lanes: u32,
) {
    // As in shared/index, but a function's result would not be known to be uniform, as cooperative operations need it.
    let tile = id.x + id.y * count.x;
    if tile >= ENTRIES * KVH * BLOCKS {
        return;
    }
    let kv_head = tile / BLOCKS;
    let j0 = tile % BLOCKS * OWNED;
    let batch = kv_head / KVH;
    let first_head = kv_head % KVH * (NH / KVH);
    let kv_at = batch * TK * KV_ROW + K_COLUMN + kv_head % KVH * HV;
    let at = batch * TQ * Q_ROW + first_head * HV;
    let dy_at = batch * TQ * CV + first_head * HV;
    let entry = B_FIRST + batch;
    let rows = (entry * NH + first_head) * TQ;
    // Blocks of queries of a head, and of all heads that share these keys.
    let begin = first_query(entry, j0);
    let blocks = (max(queries_end(entry, j0, j0 + OWNED - 1u), begin) - begin + PASSING - 1u) / PASSING;
    let all = NH / KVH * blocks;
    let across = thread % ACROSS;
    let down = thread / ACROSS;
    load_owned(kv_at, j0, thread);
    // One round, unless subgroups are larger than LANES and so too few.
    for (var first = 0u; first < PARTS; first += subgroups) {
        // Subgroups that are left over repeat the last part, and do not store it.
        let part = min(first + subgroup, PARTS - 1u);
        let lane = Lane(index, lanes, part - first, first + subgroup < PARTS);
        let row = part / PARTS_N * (TM * TILE);
        let column = part % PARTS_N * (TN * TILE);
        // Each has a name: where they were elements of an array, some compilers would keep them in memory.
        var dk00 = SUM_MATRIX(); var dk01 = SUM_MATRIX(); var dk02 = SUM_MATRIX(); var dk03 = SUM_MATRIX();
        var dk10 = SUM_MATRIX(); var dk11 = SUM_MATRIX(); var dk12 = SUM_MATRIX(); var dk13 = SUM_MATRIX();
        var dv00 = SUM_MATRIX(); var dv01 = SUM_MATRIX(); var dv02 = SUM_MATRIX(); var dv03 = SUM_MATRIX();
        var dv10 = SUM_MATRIX(); var dv11 = SUM_MATRIX(); var dv12 = SUM_MATRIX(); var dv13 = SUM_MATRIX();
        fetch_q(at, begin, thread);
        for (var block = 0u; block < all; block++) {
            let n_head = block / blocks;
            let i0 = begin + block % blocks * PASSING;
            stage(thread);
            workgroupBarrier();
            fetch_dy(dy_at + n_head * HV, i0, thread);
            products(0u, subgroup, subgroups);
            workgroupBarrier();
            stage(thread);
            fetch_q(at + n_head * HV, i0, thread);
            var p: array<vec4<f32>, ROWS * QUADS>;
            for (var r = 0u; r < ROWS; r++) {
                let j = down + DOWN * r;
                for (var n = 0u; n < QUADS && j < OWNED; n++) {
                    let x = quad_column(across, n);
                    let i = i0 + x + vec4<u32>(0u, 1u, 2u, 3u);
                    let row_of = rows + n_head * TQ + min(i, vec4<u32>(TQ - 1u));
                    let row_lse = vec4<f32>(lse[row_of.x], lse[row_of.y], lse[row_of.z], lse[row_of.w]);
                    let word = mask_words(entry, i);
                    let seen = sees(word, i, vec4<u32>(j0 + j)) & (i < vec4<u32>(TQ));
                    let sum = sum_quad(j * S_PITCH + x) * SCALE;
                    let score = biased(sum, entry * NH + first_head + n_head, i, vec4<u32>(j0 + j));
                    p[r * QUADS + n] = exp(select(vec4<f32>(MASKED), score - row_lse, seen));
                    var weight = p[r * QUADS + n];
                    if DROPOUT {
                        weight *= keep(row_of * TK + j0 + j, KEEP_SCALE);
                    }
                    put_weights(j * W_PITCH + x, vec4<f16>(weight));
                }
            }
            workgroupBarrier();
            products(V, subgroup, subgroups);
            for (var x = 0u; x < PASSING; x += TILE) {
                let a0 = weight_matrix(row * W_PITCH + x);
                let a1 = weight_matrix((row + (TM - 1u) * TILE) * W_PITCH + x);
                let b0 = passing_matrix(x * PITCH + column);
                dv00 = coopMultiplyAdd(a0, b0, dv00);
                if TM > 1u { dv10 = coopMultiplyAdd(a1, b0, dv10); }
                if TN > 1u {
                    let b1 = passing_matrix(x * PITCH + column + TILE);
                    dv01 = coopMultiplyAdd(a0, b1, dv01);
                    if TM > 1u { dv11 = coopMultiplyAdd(a1, b1, dv11); }
                }
                if TN > 2u {
                    let b2 = passing_matrix(x * PITCH + column + 2u * TILE);
                    dv02 = coopMultiplyAdd(a0, b2, dv02);
                    if TM > 1u { dv12 = coopMultiplyAdd(a1, b2, dv12); }
                }
                if TN > 3u {
                    let b3 = passing_matrix(x * PITCH + column + 3u * TILE);
                    dv03 = coopMultiplyAdd(a0, b3, dv03);
                    if TM > 1u { dv13 = coopMultiplyAdd(a1, b3, dv13); }
                }
            }
            workgroupBarrier();
            stage(thread);
            if block + 1u < all {
                fetch_q(at + (block + 1u) / blocks * HV, begin + (block + 1u) % blocks * PASSING, thread);
            }
            for (var r = 0u; r < ROWS; r++) {
                let j = down + DOWN * r;
                for (var n = 0u; n < QUADS && j < OWNED; n++) {
                    let x = quad_column(across, n);
                    let i = i0 + x + vec4<u32>(0u, 1u, 2u, 3u);
                    let row_of = rows + n_head * TQ + min(i, vec4<u32>(TQ - 1u));
                    let row_delta = vec4<f32>(delta[row_of.x], delta[row_of.y], delta[row_of.z], delta[row_of.w]);
                    var dp = sum_quad(j * S_PITCH + x);
                    if DROPOUT {
                        dp *= keep(row_of * TK + j0 + j, KEEP_SCALE);
                    }
                    put_weights(j * W_PITCH + x, vec4<f16>(p[r * QUADS + n] * (dp - row_delta)));
                }
            }
            workgroupBarrier();
            for (var x = 0u; x < PASSING; x += TILE) {
                let a0 = weight_matrix(row * W_PITCH + x);
                let a1 = weight_matrix((row + (TM - 1u) * TILE) * W_PITCH + x);
                let b0 = passing_matrix(x * PITCH + column);
                dk00 = coopMultiplyAdd(a0, b0, dk00);
                if TM > 1u { dk10 = coopMultiplyAdd(a1, b0, dk10); }
                if TN > 1u {
                    let b1 = passing_matrix(x * PITCH + column + TILE);
                    dk01 = coopMultiplyAdd(a0, b1, dk01);
                    if TM > 1u { dk11 = coopMultiplyAdd(a1, b1, dk11); }
                }
                if TN > 2u {
                    let b2 = passing_matrix(x * PITCH + column + 2u * TILE);
                    dk02 = coopMultiplyAdd(a0, b2, dk02);
                    if TM > 1u { dk12 = coopMultiplyAdd(a1, b2, dk12); }
                }
                if TN > 3u {
                    let b3 = passing_matrix(x * PITCH + column + 3u * TILE);
                    dk03 = coopMultiplyAdd(a0, b3, dk03);
                    if TM > 1u { dk13 = coopMultiplyAdd(a1, b3, dk13); }
                }
            }
            workgroupBarrier();
        }
        finish(dk00, j0 + row, column, kv_at, SCALE, lane);
        if TN > 1u { finish(dk01, j0 + row, column + TILE, kv_at, SCALE, lane); }
        if TN > 2u { finish(dk02, j0 + row, column + 2u * TILE, kv_at, SCALE, lane); }
        if TN > 3u { finish(dk03, j0 + row, column + 3u * TILE, kv_at, SCALE, lane); }
        if TM > 1u {
            finish(dk10, j0 + row + TILE, column, kv_at, SCALE, lane);
            if TN > 1u { finish(dk11, j0 + row + TILE, column + TILE, kv_at, SCALE, lane); }
            if TN > 2u { finish(dk12, j0 + row + TILE, column + 2u * TILE, kv_at, SCALE, lane); }
            if TN > 3u { finish(dk13, j0 + row + TILE, column + 3u * TILE, kv_at, SCALE, lane); }
        }
        finish(dv00, j0 + row, column, kv_at + KV, 1.0, lane);
        if TN > 1u { finish(dv01, j0 + row, column + TILE, kv_at + KV, 1.0, lane); }
        if TN > 2u { finish(dv02, j0 + row, column + 2u * TILE, kv_at + KV, 1.0, lane); }
        if TN > 3u { finish(dv03, j0 + row, column + 3u * TILE, kv_at + KV, 1.0, lane); }
        if TM > 1u {
            finish(dv10, j0 + row + TILE, column, kv_at + KV, 1.0, lane);
            if TN > 1u { finish(dv11, j0 + row + TILE, column + TILE, kv_at + KV, 1.0, lane); }
            if TN > 2u { finish(dv12, j0 + row + TILE, column + 2u * TILE, kv_at + KV, 1.0, lane); }
            if TN > 3u { finish(dv13, j0 + row + TILE, column + 3u * TILE, kv_at + KV, 1.0, lane); }
        }
        workgroupBarrier();
    }
}
