// matmul_tiled: C (M, N) = op(A) op(B), through workgroup memory and a register tile per thread. For GPUs.
//
//   A is stored (M, K), or (K, M) if TA;  B is stored (K, N), or (N, K) if TB;  C (M, N); all row-major with row lengths LD*
//
// A workgroup makes a BM x BN tile of C, a thread TM x TN of it: quads of rows and of columns, spread so that neighbouring
// threads read neighbouring quads. Slices of A and B, BK deep, pass through workgroup memory, both as (BK, rows or columns).
// They are fetched in blocks of 4 x 4, which a thread transposes in its registers where they are stored the other way, and
// the next slice is on its way while one is multiplied. Reference: src/ops/matmul.rs
// use: index store edges swaths
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

// Threads along the rows and the columns of a tile, and quads of each per thread.
const TY: u32 = BM / TM;
const TX: u32 = BN / TN;
const THREADS: u32 = TY * TX;
const QM: u32 = TM / 4u;
const QN: u32 = TN / 4u;
// Lengths in quads, one longer than they need be: transposed blocks are then stored to different banks.
const A_PITCH: u32 = BM / 4u + 1u;
const B_PITCH: u32 = BN / 4u + 1u;
// Blocks of 4 x 4 per slice: those of A, then those of B.
const A_BLOCKS: u32 = BM / 4u * (BK / 4u);
const BLOCKS: u32 = A_BLOCKS + BN / 4u * (BK / 4u);
const LOADS: u32 = (BLOCKS + THREADS - 1u) / THREADS;
const TILES_M: u32 = (M + BM - 1u) / BM;
const TILES_N: u32 = (N + BN - 1u) / BN;
const_assert BM % TM == 0u && BN % TN == 0u && TM % 4u == 0u && TN % 4u == 0u && BK % 4u == 0u;

@group(0) @binding(2) var<storage, read_write> c: array<C_TYPE>;

var<workgroup> a_slice: array<vec4<f32>, BK * A_PITCH>; // (BK, BM)
var<workgroup> b_slice: array<vec4<f32>, BK * B_PITCH>; // (BK, BN)

// Rows `m` to `m + 3` of op(A) in steps `k` to `k + 3`, each a column of the result. Rows past the last repeat it.
fn load_a(m: u32, k: u32) -> mat4x4<f32> {
    var quads: mat4x4<f32>;
    for (var i = 0u; i < 4u; i++) {
        if TA {
            let quad = a_quad(min(k + i, K - 1u) * LDA + A_COLUMN + min(m, (M - 1u) / 4u * 4u));
            quads[i] = select(vec4<f32>(), quad, k + i < K);
        } else {
            quads[i] = within_k(a_quad(min(m + i, M - 1u) * LDA + A_COLUMN + k), k);
        }
    }
    if TA {
        return quads;
    }
    return transpose(quads);
}

// Quad of rows or columns and quad of steps of a block: the one that is stored side by side changes fastest.
fn place(block: u32, quads: u32, steps_first: bool) -> vec2<u32> {
    if steps_first {
        return vec2<u32>(block / (BK / 4u), block % (BK / 4u));
    }
    return vec2<u32>(block % quads, block / quads);
}

// Block `e` of the slice from step `k0`: zeros past the last step.
fn fetch(e: u32, m0: u32, n0: u32, k0: u32) -> mat4x4<f32> {
    if e < A_BLOCKS {
        let at = place(e, BM / 4u, !TA);
        if k0 + 4u * at.y < K {
            return load_a(m0 + 4u * at.x, k0 + 4u * at.y);
        }
    } else if e < BLOCKS {
        let at = place(e - A_BLOCKS, BN / 4u, TB);
        if k0 + 4u * at.y < K {
            return load_b(k0 + 4u * at.y, n0 + 4u * at.x);
        }
    }
    return mat4x4<f32>();
}

fn stage(e: u32, block: mat4x4<f32>) {
    if e < A_BLOCKS {
        let at = place(e, BM / 4u, !TA);
        let first = 4u * at.y * A_PITCH + at.x;
        a_slice[first] = block[0];
        a_slice[first + A_PITCH] = block[1];
        a_slice[first + 2u * A_PITCH] = block[2];
        a_slice[first + 3u * A_PITCH] = block[3];
    } else if e < BLOCKS {
        let at = place(e - A_BLOCKS, BN / 4u, TB);
        let first = 4u * at.y * B_PITCH + at.x;
        b_slice[first] = block[0];
        b_slice[first + B_PITCH] = block[1];
        b_slice[first + 2u * B_PITCH] = block[2];
        b_slice[first + 3u * B_PITCH] = block[3];
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
    let origin = tile_at(tile) * vec2<u32>(BM, BN);
    let m0 = origin.x;
    let n0 = origin.y;
    let tx = thread % TX;
    let ty = thread / TX;
    var sums: array<array<vec4<f32>, QN>, TM>;
    var next: array<mat4x4<f32>, LOADS>;
    for (var i = 0u; i < LOADS; i++) {
        next[i] = fetch(thread + i * THREADS, m0, n0, 0u);
    }
    for (var k0 = 0u; k0 < K; k0 += BK) {
        for (var i = 0u; i < LOADS; i++) {
            stage(thread + i * THREADS, next[i]);
        }
        workgroupBarrier();
        if k0 + BK < K {
            for (var i = 0u; i < LOADS; i++) {
                next[i] = fetch(thread + i * THREADS, m0, n0, k0 + BK);
            }
        }
        for (var k = 0u; k < BK; k++) {
            var b_quads: array<vec4<f32>, QN>;
            for (var j = 0u; j < QN; j++) {
                b_quads[j] = b_slice[k * B_PITCH + tx + TX * j];
            }
            for (var i = 0u; i < QM; i++) {
                let a_values = a_slice[k * A_PITCH + ty + TY * i];
                for (var j = 0u; j < QN; j++) {
                    sums[4u * i][j] += a_values.x * b_quads[j];
                    sums[4u * i + 1u][j] += a_values.y * b_quads[j];
                    sums[4u * i + 2u][j] += a_values.z * b_quads[j];
                    sums[4u * i + 3u][j] += a_values.w * b_quads[j];
                }
            }
        }
        workgroupBarrier();
    }
    for (var i = 0u; i < TM; i++) {
        let m = m0 + 4u * (ty + TY * (i / 4u)) + i % 4u;
        for (var j = 0u; j < QN; j++) {
            let n = n0 + 4u * (tx + TX * j);
            for (var e = 0u; e < 4u; e++) {
                if m < M && n + e < N {
                    store(m, n + e, sums[i][j][e]);
                }
            }
        }
    }
}
