// matmul_registers: C (M, N) = op(A) op(B), without workgroup memory. For CPUs behind a graphics API, where a barrier is a
// coroutine switch and the lanes of a workgroup are SIMD.
//
//   A is stored (M, K), or (K, M) if TA;  B is stored (K, N), or (N, K) if TB;  C (M, N); all row-major with row lengths LD*
//
// A workgroup of 8 lanes makes a tile of C of TM rows by 8 * TN columns: A is read at addresses that all lanes share, B along
// contiguous columns. Reference: src/ops/matmul.rs
// use: index store
const M: u32 = 64u;
const N: u32 = 64u;
const K: u32 = 64u;
const LDA: u32 = 64u;
const LDB: u32 = 64u;
const LDC: u32 = 64u;
// First column of this dispatch in each matrix, where a large one is worked on in pieces.
const A_COLUMN: u32 = 0u;
const B_COLUMN: u32 = 0u;
const C_COLUMN: u32 = 0u;
const TA: bool = false;
const TB: bool = false;
const ACCUMULATE: bool = false;
const TM: u32 = 8u;
const TN: u32 = 8u;

const LANES: u32 = 8u;
const TILES_M: u32 = (M + TM - 1u) / TM;
const TILES_N: u32 = (N + TN * LANES - 1u) / (TN * LANES);

@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> c: array<f32>;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tile = workgroup_index(id, count);
    if tile >= TILES_M * TILES_N {
        return;
    }
    let m0 = tile / TILES_N * TM;
    let n0 = tile % TILES_N * (TN * LANES) + lane;
    // Rows and columns past the edge repeat the last one, so that the inner loop needs no test; they are not stored.
    var a_at: array<u32, TM>;
    var b_at: array<u32, TN>;
    for (var i = 0u; i < TM; i++) {
        let m = min(m0 + i, M - 1u);
        a_at[i] = A_COLUMN + select(m * LDA, m, TA);
    }
    for (var j = 0u; j < TN; j++) {
        let n = min(n0 + j * LANES, N - 1u);
        b_at[j] = B_COLUMN + select(n, n * LDB, TB);
    }
    var sums: array<array<f32, TN>, TM>;
    for (var k = 0u; k < K; k++) {
        var b_values: array<f32, TN>;
        for (var j = 0u; j < TN; j++) {
            b_values[j] = b[b_at[j] + select(k * LDB, k, TB)];
        }
        for (var i = 0u; i < TM; i++) {
            let a_value = a[a_at[i] + select(k, k * LDA, TA)];
            for (var j = 0u; j < TN; j++) {
                sums[i][j] += a_value * b_values[j];
            }
        }
    }
    for (var i = 0u; i < TM; i++) {
        for (var j = 0u; j < TN; j++) {
            if m0 + i < M && n0 + j * LANES < N {
                store(m0 + i, n0 + j * LANES, sums[i][j]);
            }
        }
    }
}
