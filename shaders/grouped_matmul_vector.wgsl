// grouped_matmul_vector: C[r] = A[source(r)] op(B[expert of r]) for few rows r, as in decoding: a workgroup per row, so that only
// the matrices of chosen experts are read. For GPUs, and for software adapters without subgroups.
//
//   A (.., K)    B (experts, K, N), or (experts, N, K) if TB    C (ROWS, N)    offsets (experts + 1) u32
//
// As in matmul_vector, a thread owns four columns and every SLICES-th quad of K; the slices are added as a tree of fixed
// shape. Reference: src/ops/grouped_matmul.rs
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
const ROWS: u32 = 2u;
// Rows of C per row of A, where those are gathered.
const TOP: u32 = 1u;
// Quads of columns per workgroup.
const ACROSS: u32 = 8u;
const SLICES: u32 = 8u;

const THREADS: u32 = ACROSS * SLICES;
const TILES_N: u32 = (N + 4u * ACROSS - 1u) / (4u * ACROSS);
const_assert SLICES > 0u && (SLICES & (SLICES - 1u)) == 0u;

@group(0) @binding(2) var<storage, read_write> c: array<f32>;

var<workgroup> parts: array<vec4<f32>, THREADS>; // (SLICES, ACROSS)
// First word of the expert's matrix.
var<private> B_COLUMN: u32;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let tile = workgroup_index(id, count);
    let rows = tile_rows(tile / TILES_N, 1u);
    if rows.first >= rows.end {
        return;
    }
    B_COLUMN = rows.expert * EXPERT_WORDS;
    let column = select(thread % ACROSS, thread / SLICES, TB);
    let slice = select(thread / ACROSS, thread % SLICES, TB);
    let n = (tile % TILES_N * ACROSS + column) * 4u;
    let word = source_row(rows.first) * LDA + A_COLUMN;
    var sum = vec4<f32>();
    for (var k = 4u * slice; k < K; k += 4u * SLICES) {
        sum += load_b(k, n) * within_k(a_quad(word + k), k);
    }
    let part = slice * ACROSS + column;
    parts[part] = sum;
    for (var stride = SLICES / 2u; stride > 0u; stride /= 2u) {
        workgroupBarrier();
        if slice < stride {
            parts[part] += parts[part + stride * ACROSS];
        }
    }
    if slice == 0u {
        for (var j = 0u; j < 4u; j++) {
            if n + j < N {
                store(rows.first, n + j, parts[part][j]);
            }
        }
    }
}
