// attention_backward_query_cooperative: dq, and delta = rowsum(dy * y), with the probabilities made again, on cooperative
// matrices: f16 products summed in f32. For GPUs that have them.
//
//   p = exp(SCALE q k^T + bias - lse);  dp = keep * (dy v^T);  ds = p (dp - delta);  dq = SCALE ds k
//   q (B, TQ, C);  k, v (B, TK, KVC): with q or with each other side by side;  y, dy (B, TQ, C);  lse, delta (B, NH, TQ)
//   dq as q; where q, k and v are side by side, the q part of them all
//
// A workgroup owns OWNED queries of one head: their q and dy are staged once, blocks of PASSING keys pass, v and then k in the
// same slice, each fetched into registers while the one before it is in use. ds is f16. Writes the q part of dqkv; the other two
// come from attention_backward_key.
// Dao 2023 (FlashAttention-2), algorithm 2, without its atomics. Reference: src/ops/attention_backward.rs
// use: attention cooperative_heads
enable f16;
enable wgpu_cooperative_matrix;

// Queries of a workgroup, and keys that pass at a time.
const OWNED: u32 = 64u;
const PASSING: u32 = 32u;
// Matrices of a subgroup, down (1 or 2) and across (1 to 4).
const TM: u32 = 2u;
const TN: u32 = 2u;
// Lanes of a subgroup. Where it has others the result is the same, but units lie idle or parts wait for each other.
const LANES: u32 = 32u;

// q, and dy.
const OWNED_PARTS: u32 = 2u;
const DY: u32 = OWNED * PITCH;
const BLOCKS: u32 = (TQ + OWNED - 1u) / OWNED;

@group(0) @binding(1) var<storage, read> y: array<vec4<X_TYPE>>;
@group(0) @binding(2) var<storage, read> lse: array<f32>;
@group(0) @binding(3) var<storage, read> dy: array<vec4<X_TYPE>>;
@group(0) @binding(4) var<storage, read_write> dq_rows: array<vec4<X_TYPE>>;
@group(0) @binding(5) var<storage, read_write> delta: array<f32>;
@group(0) @binding(6) var<uniform> step: Step;

var<workgroup> shares: array<f32, OWNED * ACROSS>; // each thread's share of a row's delta

fn load_owned(at: u32, y_at: u32, i0: u32, thread: u32) {
    for (var e = thread; e < OWNED * HV; e += THREADS) {
        let i = i0 + e / HV;
        var q = vec4<f16>();
        var d = vec4<f16>();
        if i < TQ {
            q = vec4<f16>(q_quad(at + i * Q_ROW + e % HV));
            d = vec4<f16>(dy[y_at + i * CV + e % HV]);
        }
        put_owned(e / HV * PITCH + e % HV * 4u, q);
        put_owned(DY + e / HV * PITCH + e % HV * 4u, d);
    }
}

// This thread's share of rowsum(dy * y).
fn delta_share(y_at: u32, i0: u32, across: u32, row: u32) -> f32 {
    var sum = 0.0;
    if row < OWNED && i0 + row < TQ {
        for (var x = across; x < HV; x += ACROSS) {
            let i = y_at + (i0 + row) * CV + x;
            sum += dot(vec4<f32>(dy[i]), vec4<f32>(y[i]));
        }
    }
    return sum;
}

// Loads this thread's quads of keys or values.
fn fetch(at: u32, j0: u32, thread: u32) {
    for (var n = 0u; n < NEXT; n++) {
        let e = thread + n * THREADS;
        let j = j0 + e / HV;
        next[n] = select(vec4<f16>(), vec4<f16>(kv_quad(at + min(j, TK - 1u) * KV_ROW + e % HV)), j < TK);
    }
}

// A matrix of dq, through workgroup memory. Called by all of a workgroup.
fn finish(matrix: SUM_MATRIX, row: u32, column: u32, at: u32, i0: u32, lane: Lane) {
    let first = lane.part * (TILE * M_PITCH);
    workgroupBarrier();
    put_sum_matrix(first, M_PITCH, matrix);
    workgroupBarrier();
    for (var e = lane.index; lane.stores && e < TILE * TILE / 4u; e += lane.count) {
        let quad = sum_quad(first + e / (TILE / 4u) * M_PITCH + e % (TILE / 4u) * 4u);
        let i = i0 + row + e / (TILE / 4u);
        if i < TQ {
            dq_rows[at + i * Q_ROW + column / 4u + e % (TILE / 4u)] = vec4<X_TYPE>(quad * SCALE);
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
    if tile >= ENTRIES * NH * BLOCKS {
        return;
    }
    let head = tile / BLOCKS;
    // The last queries see the most keys: they start first.
    let i0 = (BLOCKS - 1u - tile % BLOCKS) * OWNED;
    let at = head / NH * TQ * Q_ROW + head % NH * HV;
    let kv_at = head / NH * TK * KV_ROW + K_COLUMN + head % NH / (NH / KVH) * HV;
    let y_at = head / NH * TQ * CV + head % NH * HV;
    let entry = B_FIRST + head / NH;
    let rows = (B_FIRST * NH + head) * TQ;
    let end = keys_end(entry, i0 + OWNED);
    let across = thread % ACROSS;
    let down = thread / ACROSS;
    load_owned(at, y_at, i0, thread);
    for (var r = 0u; r < ROWS; r++) {
        if down + DOWN * r < OWNED {
            shares[(down + DOWN * r) * ACROSS + across] = delta_share(y_at, i0, across, down + DOWN * r);
        }
    }
    workgroupBarrier();
    var row_delta: array<f32, ROWS>;
    var row_lse: array<f32, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        let i = down + DOWN * r;
        row_delta[r] = 0.0;
        for (var x = 0u; x < ACROSS && i < OWNED; x++) {
            row_delta[r] += shares[i * ACROSS + x];
        }
        row_lse[r] = lse[rows + min(i0 + i, TQ - 1u)];
        if across == 0u && i < OWNED && i0 + i < TQ {
            delta[rows + i0 + i] = row_delta[r];
        }
    }
    // One round, unless subgroups are larger than LANES and so too few.
    for (var first = 0u; first < PARTS; first += subgroups) {
        // Subgroups that are left over repeat the last part, and do not store it.
        let part = min(first + subgroup, PARTS - 1u);
        let lane = Lane(index, lanes, part - first, first + subgroup < PARTS);
        let row = part / PARTS_N * (TM * TILE);
        let column = part % PARTS_N * (TN * TILE);
        // Each has a name: where they were elements of an array, some compilers would keep them in memory.
        var o00 = SUM_MATRIX(); var o01 = SUM_MATRIX(); var o02 = SUM_MATRIX(); var o03 = SUM_MATRIX();
        var o10 = SUM_MATRIX(); var o11 = SUM_MATRIX(); var o12 = SUM_MATRIX(); var o13 = SUM_MATRIX();
        let first_block = first_key(entry, i0) / PASSING * PASSING;
        fetch(kv_at + KV, first_block, thread);
        for (var j0 = first_block; j0 < end; j0 += PASSING) {
            stage(thread);
            workgroupBarrier();
            fetch(kv_at, j0, thread);
            products(DY, subgroup, subgroups);
            workgroupBarrier();
            stage(thread);
            var dp: array<vec4<f32>, ROWS * QUADS>;
            for (var r = 0u; r < ROWS; r++) {
                let i = down + DOWN * r;
                for (var n = 0u; n < QUADS && i < OWNED; n++) {
                    dp[r * QUADS + n] = sum_quad(i * S_PITCH + quad_column(across, n));
                }
            }
            workgroupBarrier();
            if j0 + PASSING < end {
                fetch(kv_at + KV, j0 + PASSING, thread);
            }
            products(0u, subgroup, subgroups);
            workgroupBarrier();
            for (var r = 0u; r < ROWS; r++) {
                let i = down + DOWN * r;
                let word = vec4<u32>(mask_word(entry, i0 + i));
                for (var n = 0u; n < QUADS && i < OWNED; n++) {
                    let x = quad_column(across, n);
                    let j = j0 + x + vec4<u32>(0u, 1u, 2u, 3u);
                    let seen = sees(word, vec4<u32>(i0 + i), j) & vec4<bool>(i0 + i < TQ);
                    let score = biased(sum_quad(i * S_PITCH + x) * SCALE, entry * NH + head % NH, vec4<u32>(i0 + i), j);
                    let p = exp(select(vec4<f32>(MASKED), score - row_lse[r], seen));
                    var kept = vec4<f32>(1.0);
                    if DROPOUT {
                        kept = keep((rows + i0 + i) * TK + j, KEEP_SCALE);
                    }
                    put_weights(i * W_PITCH + x, vec4<f16>(p * (kept * dp[r * QUADS + n] - row_delta[r])));
                }
            }
            workgroupBarrier();
            for (var k = 0u; k < PASSING; k += TILE) {
                let p0 = weight_matrix(row * W_PITCH + k);
                let p1 = weight_matrix((row + (TM - 1u) * TILE) * W_PITCH + k);
                let k0 = passing_matrix(k * PITCH + column);
                o00 = coopMultiplyAdd(p0, k0, o00);
                if TM > 1u { o10 = coopMultiplyAdd(p1, k0, o10); }
                if TN > 1u {
                    let k1 = passing_matrix(k * PITCH + column + TILE);
                    o01 = coopMultiplyAdd(p0, k1, o01);
                    if TM > 1u { o11 = coopMultiplyAdd(p1, k1, o11); }
                }
                if TN > 2u {
                    let k2 = passing_matrix(k * PITCH + column + 2u * TILE);
                    o02 = coopMultiplyAdd(p0, k2, o02);
                    if TM > 1u { o12 = coopMultiplyAdd(p1, k2, o12); }
                }
                if TN > 3u {
                    let k3 = passing_matrix(k * PITCH + column + 3u * TILE);
                    o03 = coopMultiplyAdd(p0, k3, o03);
                    if TM > 1u { o13 = coopMultiplyAdd(p1, k3, o13); }
                }
            }
            workgroupBarrier();
        }
        finish(o00, row, column, at, i0, lane);
        if TN > 1u { finish(o01, row, column + TILE, at, i0, lane); }
        if TN > 2u { finish(o02, row, column + 2u * TILE, at, i0, lane); }
        if TN > 3u { finish(o03, row, column + 3u * TILE, at, i0, lane); }
        if TM > 1u {
            finish(o10, row + TILE, column, at, i0, lane);
            if TN > 1u { finish(o11, row + TILE, column + TILE, at, i0, lane); }
            if TN > 2u { finish(o12, row + TILE, column + 2u * TILE, at, i0, lane); }
            if TN > 3u { finish(o13, row + TILE, column + 3u * TILE, at, i0, lane); }
        }
        workgroupBarrier();
    }
}
