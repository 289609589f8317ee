// matmul_cooperative: C (M, N) = op(A) op(B) on cooperative matrices: f16 products summed in f32. For GPUs that have them.
//
//   A is stored (M, K), or (K, M) if TA;  B is stored (K, N), or (N, K) if TB;  C (M, N); all row-major with row lengths LD*
//
// A workgroup makes a BM x BN tile of C, a subgroup TM x TN matrices of it. Slices of A and B, BK deep, are staged as they are
// stored, so that a transposed one is only read column-major; rows are padded against bank conflicts. The next slice is fetched
// into registers while this one is multiplied. Reference: src/ops/matmul.rs
// use: store operands cooperative_16 sums_staged
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
const TM: u32 = 4u;
const TN: u32 = 4u;
// Lanes of a subgroup. Where it has others the result is the same, but units lie idle or parts wait for each other.
const LANES: u32 = 32u;
// Rows of tiles that are worked on together, so that what runs at once shares slices of A and of B in the cache.
const BAND: u32 = 8u;

alias A_TYPE = f16;
alias B_TYPE = f16;
// What A and B are multiplied in.
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
const_assert BM % (TM * TILE) == 0u && BN % (TN * TILE) == 0u && BK % TILE == 0u;
const_assert A_QUADS * 4u * THREADS == BM * BK && B_QUADS * 4u * THREADS == BN * BK;

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

// Row and column of the tile that a workgroup makes, in tiles.
fn place(tile: u32) -> vec2<u32> {
    let band = tile / (BAND * TILES_N) * BAND;
    let rows = min(BAND, TILES_M - band);
    let i = tile % (BAND * TILES_N);
    return vec2<u32>(band + i % rows, i / rows);
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_invocation_id) lane: u32,
    @builtin(subgroup_size) lanes: u32,
) {
    // As in shared/index, but a function's result would not be known to be uniform, as cooperative operations need it.
    let tile = id.x + id.y * count.x;
    if tile >= TILES_M * TILES_N {
        return;
    }
    let origin = place(tile) * vec2<u32>(BM, BN);
    // One round, unless subgroups are larger than LANES and so too few.
    for (var first = 0u; first < PARTS; first += subgroups) {
        // Subgroups that are left over repeat the last part, and do not store it.
        let made = first + subgroup < PARTS;
        let part = min(first + subgroup, PARTS - 1u);
        let m = part / PARTS_N * (TM * TILE);
        let n = part % PARTS_N * (TN * TILE);
        var sums: array<array<SUM_MATRIX, TN>, TM>;
        fetch(origin.x, origin.y, 0u, thread);
        for (var k0 = 0u; k0 < K; k0 += BK) {
            stage(thread);
            workgroupBarrier();
            if k0 + BK < K {
                fetch(origin.x, origin.y, k0 + BK, thread);
            }
            for (var k = 0u; k < BK; k += TILE) {
                var a_matrices: array<A_MATRIX, TM>;
                for (var i = 0u; i < TM; i++) {
                    a_matrices[i] = a_matrix(m + i * TILE, k);
                }
                for (var j = 0u; j < TN; j++) {
                    let b = b_matrix(k, n + j * TILE);
                    for (var i = 0u; i < TM; i++) {
                        sums[i][j] = coopMultiplyAdd(a_matrices[i], b, sums[i][j]);
                    }
                }
            }
            workgroupBarrier();
        }
        for (var i = 0u; i < TM; i++) {
            for (var j = 0u; j < TN; j++) {
                finish(sums[i][j], origin.x + m + i * TILE, origin.y + n + j * TILE, part - first, made, lane, lanes);
            }
        }
    }
}
