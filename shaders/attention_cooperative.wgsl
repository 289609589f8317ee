// attention_cooperative: y = softmax(mask(SCALE q k^T + bias)) v per head, fused, with an online softmax, on cooperative matrices:
// f16 products summed in f32. For GPUs that have them.
//
//   q (B, TQ, C);  k, v (B, TK, KVC): with q or with each other side by side;  y (B, TQ, C)
//   lse (B, NH, TQ): log-sum-exp, for backward, MASKED for a query that sees no key, whose y is 0
//
// A workgroup owns OWNED queries of one head; blocks of PASSING keys pass, k and then v in the same slice, each fetched into
// registers while the one before it is in use. Weights are f16. They are relative to a maximum that moves only where it falls
// behind by SLACK: seldom, so that the output stays in its matrices, whose rows no thread can reach; to be rescaled they go
// through workgroup memory. Blocks that no query sees are never visited.
// Dao et al. 2022, algorithm 1. Reference: src/ops/attention.rs
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

const OWNED_PARTS: u32 = 1u;
const BLOCKS: u32 = (TQ + OWNED - 1u) / OWNED;
// A weight is at most e^SLACK, 3000, which f16 holds as precisely as any.
const SLACK: f32 = 8.0;

@group(0) @binding(1) var<storage, read_write> y: array<vec4<X_TYPE>>;
@group(0) @binding(2) var<storage, read_write> lse: array<f32>;
@group(0) @binding(3) var<uniform> step: Step;

var<workgroup> shares: array<f32, OWNED * ACROSS>; // each thread's share of what a row reduces: its maximum, then its sum
var<workgroup> factors: array<f32, OWNED>; // what a row of the output is multiplied by
var<workgroup> behind: atomic<u32>; // whether a row's is not 1

fn load_q(at: u32, i0: u32, thread: u32) {
    for (var e = thread; e < OWNED * HV; e += THREADS) {
        let i = i0 + e / HV;
        var value = vec4<f16>();
        if i < TQ {
            value = vec4<f16>(q_quad(at + i * Q_ROW + e % HV));
        }
        put_owned(e / HV * PITCH + e % HV * 4u, value);
    }
}

// Loads this thread's quads of keys or values.
fn fetch(at: u32, j0: u32, thread: u32) {
    for (var n = 0u; n < NEXT; n++) {
        let e = thread + n * THREADS;
        let j = j0 + e / HV;
        next[n] = select(vec4<f16>(), vec4<f16>(kv_quad(at + min(j, TK - 1u) * KV_ROW + e % HV)), j < TK);
    }
}

// A matrix of the output, its rows from `row` on multiplied by their factors. Called by all of a workgroup.
fn rescaled(matrix: SUM_MATRIX, row: u32, lane: Lane) -> SUM_MATRIX {
    let first = lane.part * (TILE * M_PITCH);
    workgroupBarrier();
    put_sum_matrix(first, M_PITCH, matrix);
    workgroupBarrier();
    for (var e = lane.index; lane.stores && e < TILE * TILE / 4u; e += lane.count) {
        let at = first + e / (TILE / 4u) * M_PITCH + e % (TILE / 4u) * 4u;
        put_sums(at, sum_quad(at) * factors[row + e / (TILE / 4u)]);
    }
    workgroupBarrier();
    return sum_matrix(first, M_PITCH);
}

// The same, to y at `to` and `column`.
fn finish(matrix: SUM_MATRIX, row: u32, column: u32, to: u32, i0: u32, lane: Lane) {
    let first = lane.part * (TILE * M_PITCH);
    workgroupBarrier();
    put_sum_matrix(first, M_PITCH, matrix);
    workgroupBarrier();
    for (var e = lane.index; lane.stores && e < TILE * TILE / 4u; e += lane.count) {
        let at = first + e / (TILE / 4u) * M_PITCH + e % (TILE / 4u) * 4u;
        let i = row + e / (TILE / 4u);
        if i0 + i < TQ {
            y[to + i * CV + column / 4u + e % (TILE / 4u)] = vec4<X_TYPE>(sum_quad(at) * factors[i]);
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
    let y_at = (head / NH * TQ + i0) * CV + head % NH * HV;
    let entry = B_FIRST + head / NH;
    let first_row = (B_FIRST * NH + head) * TQ + i0;
    let end = keys_end(entry, i0 + OWNED);
    let across = thread % ACROSS;
    let down = thread / ACROSS;
    load_q(at, i0, thread);
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
        var m: array<f32, ROWS>;
        var l: array<f32, ROWS>; // over this thread's keys
        for (var r = 0u; r < ROWS; r++) {
            m[r] = MASKED;
            l[r] = 0.0;
        }
        let first_block = first_key(entry, i0) / PASSING * PASSING;
        fetch(kv_at, first_block, thread);
        for (var j0 = first_block; j0 < end; j0 += PASSING) {
            stage(thread);
            workgroupBarrier();
            fetch(kv_at + KV, j0, thread);
            products(0u, subgroup, subgroups);
            workgroupBarrier();
            stage(thread);
            if j0 + PASSING < end {
                fetch(kv_at, j0 + PASSING, thread);
            }
            // Scores, those of keys that a query does not see masked.
            var s: array<vec4<f32>, ROWS * QUADS>;
            for (var r = 0u; r < ROWS; r++) {
                let i = down + DOWN * r;
                let word = vec4<u32>(mask_word(entry, i0 + i));
                var highest = MASKED;
                for (var n = 0u; n < QUADS && i < OWNED; n++) {
                    let x = quad_column(across, n);
                    let j = j0 + x + vec4<u32>(0u, 1u, 2u, 3u);
                    let seen = sees(word, vec4<u32>(i0 + i), j);
                    let score = biased(sum_quad(i * S_PITCH + x) * SCALE, entry * NH + head % NH, vec4<u32>(i0 + i), j);
                    let quad = select(vec4<f32>(MASKED), score, seen);
                    s[r * QUADS + n] = quad;
                    highest = max(highest, max(max(quad.x, quad.y), max(quad.z, quad.w)));
                }
                if i < OWNED {
                    shares[i * ACROSS + across] = highest;
                }
            }
            if thread == 0u {
                atomicStore(&behind, 0u);
            }
            workgroupBarrier();
            for (var r = 0u; r < ROWS; r++) {
                let i = down + DOWN * r;
                let before = m[r];
                var highest = MASKED;
                for (var x = 0u; x < ACROSS && i < OWNED; x++) {
                    highest = max(highest, shares[i * ACROSS + x]);
                }
                if highest > before + SLACK {
                    m[r] = highest;
                }
                let factor = exp(before - m[r]);
                l[r] *= factor;
                if across == 0u && i < OWNED {
                    factors[i] = factor;
                    // Of nothing there is nothing to rescale.
                    if factor != 1.0 && before > MASKED {
                        atomicStore(&behind, 1u);
                    }
                }
                for (var n = 0u; n < QUADS && i < OWNED; n++) {
                    let quad = s[r * QUADS + n];
                    var p = select(vec4<f32>(), exp(quad - m[r]), quad > vec4<f32>(MASKED));
                    l[r] += p.x + p.y + p.z + p.w;
                    let x = quad_column(across, n);
                    if DROPOUT {
                        p *= keep((first_row + i) * TK + j0 + x + vec4<u32>(0u, 1u, 2u, 3u), 1.0);
                    }
                    put_weights(i * W_PITCH + x, vec4<f16>(p));
                }
            }
            // Also the barrier between weights and values and their use.
            if workgroupUniformLoad(&behind) != 0u {
                o00 = rescaled(o00, row, lane);
                if TN > 1u { o01 = rescaled(o01, row, lane); }
                if TN > 2u { o02 = rescaled(o02, row, lane); }
                if TN > 3u { o03 = rescaled(o03, row, lane); }
                if TM > 1u {
                    o10 = rescaled(o10, row + TILE, lane);
                    if TN > 1u { o11 = rescaled(o11, row + TILE, lane); }
                    if TN > 2u { o12 = rescaled(o12, row + TILE, lane); }
                    if TN > 3u { o13 = rescaled(o13, row + TILE, lane); }
                }
            }
            for (var k = 0u; k < PASSING; k += TILE) {
                let p0 = weight_matrix(row * W_PITCH + k);
                let p1 = weight_matrix((row + (TM - 1u) * TILE) * W_PITCH + k);
                let v0 = passing_matrix(k * PITCH + column);
                o00 = coopMultiplyAdd(p0, v0, o00);
                if TM > 1u { o10 = coopMultiplyAdd(p1, v0, o10); }
                if TN > 1u {
                    let v1 = passing_matrix(k * PITCH + column + TILE);
                    o01 = coopMultiplyAdd(p0, v1, o01);
                    if TM > 1u { o11 = coopMultiplyAdd(p1, v1, o11); }
                }
                if TN > 2u {
                    let v2 = passing_matrix(k * PITCH + column + 2u * TILE);
                    o02 = coopMultiplyAdd(p0, v2, o02);
                    if TM > 1u { o12 = coopMultiplyAdd(p1, v2, o12); }
                }
                if TN > 3u {
                    let v3 = passing_matrix(k * PITCH + column + 3u * TILE);
                    o03 = coopMultiplyAdd(p0, v3, o03);
                    if TM > 1u { o13 = coopMultiplyAdd(p1, v3, o13); }
                }
            }
            workgroupBarrier();
        }
        for (var r = 0u; r < ROWS; r++) {
            if down + DOWN * r < OWNED {
                shares[(down + DOWN * r) * ACROSS + across] = l[r];
            }
        }
        workgroupBarrier();
        for (var r = 0u; r < ROWS; r++) {
            let i = down + DOWN * r;
            if across == 0u && i < OWNED && i0 + i < TQ {
                var sum = 0.0;
                for (var x = 0u; x < ACROSS; x++) {
                    sum += shares[i * ACROSS + x];
                }
                factors[i] = select(0.0, KEEP_SCALE / sum, sum > 0.0);
                lse[first_row + i] = select(MASKED, m[r] + log(sum), sum > 0.0);
            }
        }
        finish(o00, row, column, y_at, i0, lane);
        if TN > 1u { finish(o01, row, column + TILE, y_at, i0, lane); }
        if TN > 2u { finish(o02, row, column + 2u * TILE, y_at, i0, lane); }
        if TN > 3u { finish(o03, row, column + 3u * TILE, y_at, i0, lane); }
        if TM > 1u {
            finish(o10, row + TILE, column, y_at, i0, lane);
            if TN > 1u { finish(o11, row + TILE, column + TILE, y_at, i0, lane); }
            if TN > 2u { finish(o12, row + TILE, column + 2u * TILE, y_at, i0, lane); }
            if TN > 3u { finish(o13, row + TILE, column + 3u * TILE, y_at, i0, lane); }
        }
        workgroupBarrier();
    }
}
