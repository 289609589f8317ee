// grouped_weights_tiled: C[e] = sum over the rows r of expert e of A[r]^T B[source(r)], or C[e] += it: the gradient of the
// experts' matrices, through workgroup memory and a register tile per thread. For GPUs.
//
//   A (ROWS, M)    B (.., N)    C (experts, M, N)    offsets (experts + 1) u32
//
// A workgroup makes a BM x BN tile of one expert's matrix. An idle expert's gradient is zero.
// Reference: src/ops/grouped_weights.rs
// use: index store expert_rows rows_sorted quads
const M: u32 = 64u;
const N: u32 = 64u;
const LDA: u32 = 64u;
const LDB: u32 = 64u;
const LDC: u32 = 64u;
const A_COLUMN: u32 = 0u;
const C_COLUMN: u32 = 0u;
const ACCUMULATE: bool = false;
const FIRST_EXPERT: u32 = 0u;
const EXPERTS: u32 = 8u;
const FIRST_ROW: u32 = 0u;
const ROWS: u32 = 64u;
// Rows of A per row of B, where those are gathered.
const TOP: u32 = 1u;
const BM: u32 = 64u;
const BN: u32 = 64u;
const BK: u32 = 16u;
const TM: u32 = 4u;
const TN: u32 = 4u;

const THREADS: u32 = (BM / TM) * (BN / TN);
const A_PITCH: u32 = BM + 4u;
const B_PITCH: u32 = BN + 4u;
const TILES_M: u32 = (M + BM - 1u) / BM;
const TILES_N: u32 = (N + BN - 1u) / BN;
const_assert BM % 4u == 0u && BN % 4u == 0u && BM % TM == 0u && BN % TN == 0u;

@group(0) @binding(2) var<storage, read_write> c: array<f32>;

var<workgroup> a_slice: array<f32, BK * A_PITCH>; // (BK, BM)
var<workgroup> b_slice: array<f32, BK * B_PITCH>; // (BK, BN)

// Quads along M of rows `first` to `end`, BK at most, with zeros after them.
fn load_a(m0: u32, first: u32, end: u32, thread: u32) {
    for (var i = thread; i < BM * BK / 4u; i += THREADS) {
        let m = i % (BM / 4u) * 4u;
        let k = i / (BM / 4u);
        var quad = vec4<f32>();
        if first + k < end {
            quad = a_quad((first + k) * LDA + A_COLUMN + min(m0 + m, (M - 1u) / 4u * 4u));
        }
        for (var j = 0u; j < 4u; j++) {
            a_slice[k * A_PITCH + m + j] = quad[j];
        }
    }
}

fn load_b(n0: u32, first: u32, end: u32, thread: u32) {
    for (var i = thread; i < BN * BK / 4u; i += THREADS) {
        let n = i % (BN / 4u) * 4u;
        let k = i / (BN / 4u);
        var quad = vec4<f32>();
        if first + k < end {
            quad = b_quad(source_row(first + k) * LDB + min(n0 + n, (N - 1u) / 4u * 4u));
        }
        for (var j = 0u; j < 4u; j++) {
            b_slice[k * B_PITCH + n + j] = quad[j];
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
    if tile >= EXPERTS * TILES_M * TILES_N {
        return;
    }
    let rows = expert_rows(tile / (TILES_M * TILES_N));
    let m0 = tile / TILES_N % TILES_M * BM;
    let n0 = tile % TILES_N * BN;
    let tm = thread / (BN / TN) * TM;
    let tn = thread % (BN / TN) * TN;
    var sums: array<array<f32, TN>, TM>;
    for (var first = rows.first; first < rows.end; first += BK) {
        load_a(m0, first, rows.end, thread);
        load_b(n0, first, rows.end, thread);
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
    if ACCUMULATE && rows.first >= rows.end {
        return;
    }
    for (var i = 0u; i < TM; i++) {
        for (var j = 0u; j < TN; j++) {
            if m0 + tm + i < M && n0 + tn + j < N {
                store(rows.expert * M + m0 + tm + i, n0 + tn + j, sums[i][j]);
            }
        }
    }
}
