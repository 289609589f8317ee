// matmul_cooperative: C (M, N) = op(A) op(B) on cooperative matrices: f16 products summed in f32. For GPUs that have them.
//
//   A is stored (M, K), or (K, M) if TA;  B is stored (K, N), or (N, K) if TB;  C (M, N); all row-major with row lengths LD*
//
// A workgroup makes a BM x BN tile of C, a subgroup TM x TN matrices of it. Slices of A and B, BK deep, are staged as they are
// stored, so that a transposed one is only read column-major; rows are padded against bank conflicts. The next slice is fetched
// into registers while this one is multiplied. Reference: src/ops/matmul.rs
// use: store swaths operands cooperative_16 sums_staged
enable f16;
enable wgpu_cooperative_matrix;

const M: u32 = 128u;
const N: u32 = 128u;
const K: u32 = 128u;
const LDA: u32 = 128u;
const LDB: u32 = 128u;
const LDC: u32 = 128u;
// First column of this dispatch in each matrix, where a large one is worked on in pieces.
const A_COLUMN: u32 = 0u;
const B_COLUMN: u32 = 0u;
const C_COLUMN: u32 = 0u;
const TA: bool = false;
const TB: bool = false;
const ACCUMULATE: bool = false;
const BM: u32 = 128u;
const BN: u32 = 128u;
const BK: u32 = 32u;
// Matrices of a subgroup, down and across: 2 or 4.
const TM: u32 = 4u;
const TN: u32 = 4u;
// Lanes of a subgroup. Where it has others the result is the same, but units lie idle or parts wait for each other.
const LANES: u32 = 32u;

alias A_TYPE = f16;
alias B_TYPE = f16;
// The type in which A and B are multiplied.
alias SLICE_TYPE = f16;

// The parts of a tile, one for each subgroup.
const PARTS_N: u32 = BN / (TN * TILE);
const PARTS: u32 = BM / (TM * TILE) * PARTS_N;
const THREADS: u32 = PARTS * LANES;
const TILES_M: u32 = (M + BM - 1u) / BM;
const TILES_N: u32 = (N + BN - 1u) / BN;
// Rows and columns of A and B, of their slices, and whether slices lie within them, all as stored.
const A_ROWS: u32 = select(M, K, TA);
const A_COLUMNS: u32 = select(K, M, TA);
const A_HEIGHT: u32 = select(BM, BK, TA);
const A_WIDTH: u32 = select(BK, BM, TA);
const A_WHOLE: bool = M % BM == 0u && K % BK == 0u;
const B_ROWS: u32 = select(K, N, TB);
const B_COLUMNS: u32 = select(N, K, TB);
const B_HEIGHT: u32 = select(BK, BN, TB);
const B_WIDTH: u32 = select(BN, BK, TB);
const B_WHOLE: bool = N % BN == 0u && K % BK == 0u;
// 16 bytes more per row of f16, which also keeps the alignment that loads of cooperative matrices need.
const A_PITCH: u32 = A_WIDTH + 8u;
const B_PITCH: u32 = B_WIDTH + 8u;
// Quads of a slice per thread.
const A_QUADS: u32 = BM * BK / (4u * THREADS);
const B_QUADS: u32 = BN * BK / (4u * THREADS);
const_assert TM == 2u || TM == 4u;
const_assert TN == 2u || TN == 4u;
const_assert BM % (TM * TILE) == 0u && BN % (TN * TILE) == 0u && BK % TILE == 0u;
const_assert A_QUADS * 4u * THREADS == BM * BK && B_QUADS * 4u * THREADS == BN * BK;

// Where a thread is when the sums are finished.
struct Lane {
    // In its subgroup, and how many there are in it.
    index: u32,
    count: u32,
    // The part of this round that its subgroup has, and whether it is the one to store it.
    part: u32,
    stores: bool,
}

@group(0) @binding(2) var<storage, read_write> c: array<C_TYPE>;

var<private> a_next: array<vec4<SLICE_TYPE>, A_QUADS>;
var<private> b_next: array<vec4<SLICE_TYPE>, B_QUADS>;

// A quad from a row and column on, with zeros outside the matrix.
fn within(quad: vec4<SLICE_TYPE>, row: u32, column: u32, rows: u32, columns: u32) -> vec4<SLICE_TYPE> {
    if columns % 4u == 0u {
        return select(vec4<SLICE_TYPE>(), quad, row < rows && column < columns);
    }
    let inside = column + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(select(0u, columns, row < rows));
    return select(vec4<SLICE_TYPE>(), quad, inside);
}

// Loads this thread's quads of the slices at k0.
fn fetch(m0: u32, n0: u32, k0: u32, thread: u32) {
    for (var i = 0u; i < A_QUADS; i++) {
        let at = thread + i * THREADS;
        let row = select(m0, k0, TA) + at / (A_WIDTH / 4u);
        let column = select(k0, m0, TA) + at % (A_WIDTH / 4u) * 4u;
        if A_WHOLE {
            a_next[i] = a_quad(row * LDA + A_COLUMN + column);
        } else {
            let first = min(row, A_ROWS - 1u) * LDA + A_COLUMN + min(column, (A_COLUMNS - 1u) / 4u * 4u);
            a_next[i] = within(a_quad(first), row, column, A_ROWS, A_COLUMNS);
        }
    }
    for (var i = 0u; i < B_QUADS; i++) {
        let at = thread + i * THREADS;
        let row = select(k0, n0, TB) + at / (B_WIDTH / 4u);
        let column = select(n0, k0, TB) + at % (B_WIDTH / 4u) * 4u;
        if B_WHOLE {
            b_next[i] = b_quad(row * LDB + B_COLUMN + column);
        } else {
            let first = min(row, B_ROWS - 1u) * LDB + B_COLUMN + min(column, (B_COLUMNS - 1u) / 4u * 4u);
            b_next[i] = within(b_quad(first), row, column, B_ROWS, B_COLUMNS);
        }
    }
}

// Writes what was fetched to workgroup memory.
fn stage(thread: u32) {
    for (var i = 0u; i < A_QUADS; i++) {
        let at = thread + i * THREADS;
        put_a(at / (A_WIDTH / 4u) * A_PITCH + at % (A_WIDTH / 4u) * 4u, a_next[i]);
    }
    for (var i = 0u; i < B_QUADS; i++) {
        let at = thread + i * THREADS;
        put_b(at / (B_WIDTH / 4u) * B_PITCH + at % (B_WIDTH / 4u) * 4u, b_next[i]);
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
    if tile >= TILES_M * TILES_N {
        return;
    }
    let origin = tile_at(tile) * vec2<u32>(BM, BN);
    // One round, unless subgroups are larger than LANES and so too few.
    for (var first = 0u; first < PARTS; first += subgroups) {
        // Subgroups that are left over repeat the last part, and do not store it.
        let part = min(first + subgroup, PARTS - 1u);
        let lane = Lane(index, lanes, part - first, first + subgroup < PARTS);
        let m = part / PARTS_N * (TM * TILE);
        let n = part % PARTS_N * (TN * TILE);
        let row = origin.x + m;
        let column = origin.y + n;
        // Each has a name: where they were elements of an array, some compilers would keep them in memory.
        var s00 = SUM_MATRIX(); var s01 = SUM_MATRIX(); var s02 = SUM_MATRIX(); var s03 = SUM_MATRIX();
        var s10 = SUM_MATRIX(); var s11 = SUM_MATRIX(); var s12 = SUM_MATRIX(); var s13 = SUM_MATRIX();
        var s20 = SUM_MATRIX(); var s21 = SUM_MATRIX(); var s22 = SUM_MATRIX(); var s23 = SUM_MATRIX();
        var s30 = SUM_MATRIX(); var s31 = SUM_MATRIX(); var s32 = SUM_MATRIX(); var s33 = SUM_MATRIX();
        s00 = begin(row, column);
        s01 = begin(row, column + TILE);
        s10 = begin(row + TILE, column);
        s11 = begin(row + TILE, column + TILE);
        if TN == 4u {
            s02 = begin(row, column + 2u * TILE);
            s03 = begin(row, column + 3u * TILE);
            s12 = begin(row + TILE, column + 2u * TILE);
            s13 = begin(row + TILE, column + 3u * TILE);
        }
        if TM == 4u {
            s20 = begin(row + 2u * TILE, column);
            s21 = begin(row + 2u * TILE, column + TILE);
            s30 = begin(row + 3u * TILE, column);
            s31 = begin(row + 3u * TILE, column + TILE);
            if TN == 4u {
                s22 = begin(row + 2u * TILE, column + 2u * TILE);
                s23 = begin(row + 2u * TILE, column + 3u * TILE);
                s32 = begin(row + 3u * TILE, column + 2u * TILE);
                s33 = begin(row + 3u * TILE, column + 3u * TILE);
            }
        }
        fetch(origin.x, origin.y, 0u, thread);
        for (var k0 = 0u; k0 < K; k0 += BK) {
            stage(thread);
            workgroupBarrier();
            if k0 + BK < K {
                fetch(origin.x, origin.y, k0 + BK, thread);
            }
            for (var k = 0u; k < BK; k += TILE) {
                let a0 = a_matrix(m, k);
                let a1 = a_matrix(m + TILE, k);
                let b0 = b_matrix(k, n);
                let b1 = b_matrix(k, n + TILE);
                var a2 = a0;
                var a3 = a1;
                var b2 = b0;
                var b3 = b1;
                if TM == 4u {
                    a2 = a_matrix(m + 2u * TILE, k);
                    a3 = a_matrix(m + 3u * TILE, k);
                }
                if TN == 4u {
                    b2 = b_matrix(k, n + 2u * TILE);
                    b3 = b_matrix(k, n + 3u * TILE);
                }
                s00 = coopMultiplyAdd(a0, b0, s00);
                s01 = coopMultiplyAdd(a0, b1, s01);
                s10 = coopMultiplyAdd(a1, b0, s10);
                s11 = coopMultiplyAdd(a1, b1, s11);
                if TN == 4u {
                    s02 = coopMultiplyAdd(a0, b2, s02);
                    s03 = coopMultiplyAdd(a0, b3, s03);
                    s12 = coopMultiplyAdd(a1, b2, s12);
                    s13 = coopMultiplyAdd(a1, b3, s13);
                }
                if TM == 4u {
                    s20 = coopMultiplyAdd(a2, b0, s20);
                    s21 = coopMultiplyAdd(a2, b1, s21);
                    s30 = coopMultiplyAdd(a3, b0, s30);
                    s31 = coopMultiplyAdd(a3, b1, s31);
                    if TN == 4u {
                        s22 = coopMultiplyAdd(a2, b2, s22);
                        s23 = coopMultiplyAdd(a2, b3, s23);
                        s32 = coopMultiplyAdd(a3, b2, s32);
                        s33 = coopMultiplyAdd(a3, b3, s33);
                    }
                }
            }
            workgroupBarrier();
        }
        finish(s00, row, column, lane);
        finish(s01, row, column + TILE, lane);
        finish(s10, row + TILE, column, lane);
        finish(s11, row + TILE, column + TILE, lane);
        if TN == 4u {
            finish(s02, row, column + 2u * TILE, lane);
            finish(s03, row, column + 3u * TILE, lane);
            finish(s12, row + TILE, column + 2u * TILE, lane);
            finish(s13, row + TILE, column + 3u * TILE, lane);
        }
        if TM == 4u {
            finish(s20, row + 2u * TILE, column, lane);
            finish(s21, row + 2u * TILE, column + TILE, lane);
            finish(s30, row + 3u * TILE, column, lane);
            finish(s31, row + 3u * TILE, column + TILE, lane);
            if TN == 4u {
                finish(s22, row + 2u * TILE, column + 2u * TILE, lane);
                finish(s23, row + 2u * TILE, column + 3u * TILE, lane);
                finish(s32, row + 3u * TILE, column + 2u * TILE, lane);
                finish(s33, row + 3u * TILE, column + 3u * TILE, lane);
            }
        }
    }
}
