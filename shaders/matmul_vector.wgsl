// matmul_vector: C (M, N) = A op(B) for few rows M, where the time goes into reading B once. For GPUs, and for software
// adapters without subgroups.
//
//   A (M, K), row-major;  B is stored (K, N), or (N, K) if TB;  C (M, N); row lengths LD*
//
// A thread owns four columns of all rows and every SLICES-th quad of K; the slices are added in workgroup memory, as a tree of
// fixed shape. Neighbouring threads read neighbouring words of B: along N, or along K if TB. Reference: src/ops/matmul.rs
// use: index store edges
const M: u32 = 1u;
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
// Quads of columns per workgroup.
const ACROSS: u32 = 8u;
const SLICES: u32 = 8u;

const THREADS: u32 = ACROSS * SLICES;
const TILES: u32 = (N + 4u * ACROSS - 1u) / (4u * ACROSS);
const_assert !TA && (SLICES & (SLICES - 1u)) == 0u;

@group(0) @binding(2) var<storage, read_write> c: array<C_TYPE>;

var<workgroup> parts: array<vec4<f32>, THREADS>; // (SLICES, ACROSS)

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let tile = workgroup_index(id, count);
    if tile >= TILES {
        return;
    }
    let column = select(thread % ACROSS, thread / SLICES, TB);
    let slice = select(thread / ACROSS, thread % SLICES, TB);
    let n = (tile * ACROSS + column) * 4u;
    var sums: array<vec4<f32>, M>;
    for (var k = 4u * slice; k < K; k += 4u * SLICES) {
        let quads = load_b(k, n);
        for (var m = 0u; m < M; m++) {
            sums[m] += quads * within_k(a_quad(m * LDA + A_COLUMN + k), k);
        }
    }
    for (var m = 0u; m < M; m++) {
        let part = slice * ACROSS + column;
        workgroupBarrier();
        parts[part] = sums[m];
        for (var stride = SLICES / 2u; stride > 0u; stride /= 2u) {
            workgroupBarrier();
            if slice < stride {
                parts[part] += parts[part + stride * ACROSS];
            }
        }
        if slice == 0u {
            let sum = parts[part];
            for (var j = 0u; j < 4u; j++) {
                if n + j < N {
                    store(m, n + j, sum[j]);
                }
            }
        }
    }
}
