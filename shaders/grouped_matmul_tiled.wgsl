// grouped_matmul_tiled: C[r] = A[source(r)] op(B[expert of r]), rows sorted by expert, through workgroup memory and a register
// tile per thread. For GPUs.
//
//   A (.., K)    B (experts, K, N), or (experts, N, K) if TB    C (ROWS, N)    offsets (experts + 1) u32
//
// A workgroup makes BM rows of one expert by BN columns, as matmul_tiled does; workgroups beyond the last tile leave at once.
// Reference: src/ops/grouped_matmul.rs
// use: index store expert_rows rows_sorted edges
const N: u32 = 64u;
const K: u32 = 64u;
const LDA: u32 = 64u;
const LDB: u32 = 64u;
const LDC: u32 = 64u;
const A_COLUMN: u32 = 0u;
const C_COLUMN: u32 = 0u;
const TB: bool = false;
const ACCUMULATE: bool = false;
const EXPERT_WORDS: u32 = 4096u;
const FIRST_EXPERT: u32 = 0u;
const EXPERTS: u32 = 8u;
const FIRST_ROW: u32 = 0u;
const ROWS: u32 = 64u;
// Rows of C per row of A, where those are gathered.
const TOP: u32 = 1u;
const BM: u32 = 64u;
const BN: u32 = 64u;
const BK: u32 = 16u;
const TM: u32 = 4u;
const TN: u32 = 4u;

const THREADS: u32 = (BM / TM) * (BN / TN);
const A_PITCH: u32 = BM + 4u;
const B_PITCH: u32 = BN + 4u;
const TILES_N: u32 = (N + BN - 1u) / BN;
// Quads of a slice, and those that a thread loads.
const A_QUADS: u32 = BM * BK / 4u;
const B_QUADS: u32 = BN * BK / 4u;
const A_LOADS: u32 = (A_QUADS + THREADS - 1u) / THREADS;
const_assert BM % TM == 0u && BN % TN == 0u && BK % 4u == 0u;

@group(0) @binding(2) var<storage, read_write> c: array<f32>;

var<workgroup> a_slice: array<f32, BK * A_PITCH>; // (BK, BM)
var<workgroup> b_slice: array<f32, BK * B_PITCH>; // (BK, BN)
// First word of the expert's matrix.
var<private> B_COLUMN: u32;

// Quads along K, each of one row: `words` has the rows' first words.
fn load_a(words: ptr<function, array<u32, A_LOADS>>, k0: u32, thread: u32) {
    for (var load = 0u; load < A_LOADS; load++) {
        let i = load * THREADS + thread;
        let k = i % (BK / 4u) * 4u;
        if i < A_QUADS {
            var quad = vec4<f32>();
            if k0 + k < K {
                quad = within_k(a_quad((*words)[load] + k0 + k), k0 + k);
            }
            for (var j = 0u; j < 4u; j++) {
                a_slice[(k + j) * A_PITCH + i / (BK / 4u)] = quad[j];
            }
        }
    }
}

// Quads along the way in which B is stored.
fn load_b_slice(n0: u32, k0: u32, thread: u32) {
    for (var i = thread; i < B_QUADS; i += THREADS) {
        var quad = vec4<f32>();
        if TB {
            let k = i % (BK / 4u) * 4u;
            let n = i / (BK / 4u);
            if k0 + k < K {
                quad = within_k(b_quad(min(n0 + n, N - 1u) * LDB + B_COLUMN + k0 + k), k0 + k);
            }
            for (var j = 0u; j < 4u; j++) {
                b_slice[(k + j) * B_PITCH + n] = quad[j];
            }
        } else {
            let n = i % (BN / 4u) * 4u;
            let k = i / (BN / 4u);
            if k0 + k < K {
                quad = b_quad((k0 + k) * LDB + B_COLUMN + min(n0 + n, (N - 1u) / 4u * 4u));
            }
            for (var j = 0u; j < 4u; j++) {
                b_slice[k * B_PITCH + n + j] = quad[j];
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
    let rows = tile_rows(tile / TILES_N, BM);
    if rows.first >= rows.end {
        return;
    }
    B_COLUMN = rows.expert * EXPERT_WORDS;
    let n0 = tile % TILES_N * BN;
    let tm = thread / (BN / TN) * TM;
    let tn = thread % (BN / TN) * TN;
    var words: array<u32, A_LOADS>;
    for (var load = 0u; load < A_LOADS; load++) {
        let m = (load * THREADS + thread) / (BK / 4u);
        words[load] = source_row(min(rows.first + m, rows.end - 1u)) * LDA + A_COLUMN;
    }
    var sums: array<array<f32, TN>, TM>;
    for (var k0 = 0u; k0 < K; k0 += BK) {
        load_a(&words, k0, thread);
        load_b_slice(n0, k0, thread);
        workgroupBarrier();
        for (var k = 0u; k < BK; k++) {
            var b_values: array<f32, TN>;
            for (var j = 0u; j < TN; j++) {
                b_values[j] = b_slice[k * B_PITCH + tn + j];
            }
            for (var i = 0u; i < TM; i++) {
                let a_value = a_slice[k * A_PITCH + tm + i];
                for (var j = 0u; j < TN; j++) {
                    sums[i][j] += a_value * b_values[j];
                }
            }
        }
        workgroupBarrier();
    }
    for (var i = 0u; i < TM; i++) {
        for (var j = 0u; j < TN; j++) {
            if rows.first + tm + i < rows.end && n0 + tn + j < N {
                store(rows.first + tm + i, n0 + tn + j, sums[i][j]);
            }
        }
    }
}
