// matmul_vector: C (M, N) = A op(B) for few rows M, where the time goes into reading B once. For GPUs, and for software
// adapters without subgroups.
//
//   A (M, K), row-major;  B is stored (K, N), or (N, K) if TB;  C (M, N); row lengths LD*
//
// A thread owns four columns of all rows and every SLICES-th quad of K; the slices are added in workgroup memory, TOGETHER rows at
// once, as a tree of fixed shape. Neighbouring threads read neighbouring words of B: along N, or along K if TB. Reference: src/ops/matmul.rs
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

// Rows whose slices are added between the same barriers: at most four, 16 KiB of 256 threads.
const TOGETHER: u32 = min(M, 4u);
const THREADS: u32 = ACROSS * SLICES;
// Columns of a workgroup.
const BN: u32 = 4u * ACROSS;
const TILES: u32 = (N + BN - 1u) / BN;
const_assert !TA && (SLICES & (SLICES - 1u)) == 0u;

@group(0) @binding(2) var<storage, read_write> c: array<STORED>;

var<workgroup> parts: array<vec4<f32>, TOGETHER * THREADS>; // (TOGETHER, SLICES, ACROSS)

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
    let part = slice * ACROSS + column;
    for (var first = 0u; first < M; first += TOGETHER) {
        workgroupBarrier();
        for (var m = 0u; m < TOGETHER; m++) {
            parts[m * THREADS + part] = sums[min(first + m, M - 1u)];
        }
        for (var stride = SLICES / 2u; stride > 0u; stride /= 2u) {
            workgroupBarrier();
            if slice < stride {
                for (var m = 0u; m < TOGETHER; m++) {
                    parts[m * THREADS + part] += parts[m * THREADS + part + stride * ACROSS];
                }
            }
        }
        if slice == 0u {
            // Rows past the end repeat the last one and are not stored.
            for (var m = 0u; m < TOGETHER && first + m < M; m++) {
                store_quad(first + m, n, parts[m * THREADS + part]);
            }
        }
    }
}
