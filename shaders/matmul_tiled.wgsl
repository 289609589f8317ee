// matmul_tiled: C (M, N) = op(A) op(B), through workgroup memory and a register tile per thread. For GPUs.
//
//   A is stored (M, K), or (K, M) if TA;  B is stored (K, N), or (N, K) if TB;  C (M, N); all row-major with row lengths LD*
//
// A workgroup makes a BM x BN tile of C, a thread TM x TN of it. Slices of A and B, BK deep, are staged so that a thread reads
// both along their tile edge; rows are padded against bank conflicts. Reference: src/ops/matmul.rs
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
const_assert BM % TM == 0u && BN % TN == 0u;

@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> c: array<f32>;

var<workgroup> a_slice: array<f32, BK * A_PITCH>; // (BK, BM)
var<workgroup> b_slice: array<f32, BK * B_PITCH>; // (BK, BN)

fn load_a(m0: u32, k0: u32, thread: u32) {
    for (var i = thread; i < BM * BK; i += THREADS) {
        // Neighbouring threads read neighbouring words, whichever way A is stored.
        let k = select(i % BK, i / BM, TA);
        let m = select(i / BK, i % BM, TA);
        var value = 0.0;
        if m0 + m < M && k0 + k < K {
            value = a[select((m0 + m) * LDA + A_COLUMN + k0 + k, (k0 + k) * LDA + A_COLUMN + m0 + m, TA)];
        }
        a_slice[k * A_PITCH + m] = value;
    }
}

fn load_b(n0: u32, k0: u32, thread: u32) {
    for (var i = thread; i < BN * BK; i += THREADS) {
        let k = select(i / BN, i % BK, TB);
        let n = select(i % BN, i / BK, TB);
        var value = 0.0;
        if n0 + n < N && k0 + k < K {
            value = b[select((k0 + k) * LDB + B_COLUMN + n0 + n, (n0 + n) * LDB + B_COLUMN + k0 + k, TB)];
        }
        b_slice[k * B_PITCH + n] = value;
    }
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let tile = workgroup_index(id, count);
    if tile >= TILES_M * TILES_N {
        return;
    }
    let m0 = tile / TILES_N * BM;
    let n0 = tile % TILES_N * BN;
    let tm = thread / (BN / TN) * TM;
    let tn = thread % (BN / TN) * TN;
    var sums: array<array<f32, TN>, TM>;
    for (var k0 = 0u; k0 < K; k0 += BK) {
        load_a(m0, k0, thread);
        load_b(n0, k0, thread);
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
            if m0 + tm + i < M && n0 + tn + j < N {
                store(m0 + tm + i, n0 + tn + j, sums[i][j]);
            }
        }
    }
}
