// matmul_tiled: C (M, N) = op(A) op(B), through workgroup memory and a register tile per thread. For GPUs.
//
//   A is stored (M, K), or (K, M) if TA;  B is stored (K, N), or (N, K) if TB;  C (M, N); all row-major with row lengths LD*
//
// A workgroup makes a BM x BN tile of C, a thread TM x TN of it: quads of rows and of columns, spread so that neighbouring
// threads read neighbouring quads. Slices of A and B, BK deep, pass through workgroup memory, both as (BK, rows or columns).
// They are fetched in blocks of 4 x 4, as they are stored, and the next slice is on its way while one is multiplied: a thread
// looks at its blocks only when it stages them, transposed where they are stored the other way. Reference: src/ops/matmul.rs
// use: index store quads swaths
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

// The type in which quads wait in registers: that of A and B where both are of one, f32 where not.
alias QUAD_TYPE = f32;

// Four quads along rows of A or B.
alias Block = array<vec4<QUAD_TYPE>, 4>;

// Where the quads of a block stand, as addresses of UNIT elements. Rows, columns and steps past the last repeat it, so that no
// load leaves its matrix; constants decide whether there may be such.
struct Source {
    // The first quad, also where that is past the last step.
    first: u32,
    // What steps past the last are read from: for quads along steps the last of the first quad's row, for others each quad's.
    last: u32,
    // From the first quad to the last that exists in its column, for quads along steps.
    reach: u32,
}

@group(0) @binding(2) var<storage, read_write> c: array<STORED>;

var<workgroup> a_slice: array<vec4<f32>, BK * A_PITCH>; // (BK, BM)
var<workgroup> b_slice: array<vec4<f32>, BK * B_PITCH>; // (BK, BN)

// Quad of rows or columns and quad of steps of a block: the one that is stored side by side changes fastest.
fn place(block: u32, quads: u32, steps_first: bool) -> vec2<u32> {
    if steps_first {
        return vec2<u32>(block / (BK / 4u), block % (BK / 4u));
    }
    return vec2<u32>(block % quads, block / quads);
}

// The block of rows or columns `m` to `m + 3` of `length`, in steps `k` to `k + 3`, in a matrix with rows of `pitch` from `column`
// on. `along` means that its quads lie along steps.
fn source(m: u32, k: u32, length: u32, pitch: u32, column: u32, along: bool) -> Source {
    if along {
        let row = min(m, select(length - 1u, length - 4u, length % 4u == 0u));
        let start = row * pitch + column;
        return Source((start + k) / UNIT, (start + (K - 1u) / 4u * 4u) / UNIT, (length - 1u - row) * (pitch / UNIT));
    }
    let start = column + min(m, (length - 1u) / 4u * 4u);
    return Source((k * pitch + start) / UNIT, ((K - 1u) * pitch + start) / UNIT, 0u);
}

// Whether block `i` of a thread is of A, and whether there is one: constants decide where they can.
fn is_of_a(i: u32, thread: u32) -> bool {
    if A_BLOCKS % THREADS == 0u {
        return i < A_BLOCKS / THREADS;
    }
    return thread + i * THREADS < A_BLOCKS;
}

fn exists(i: u32, thread: u32) -> bool {
    return BLOCKS % THREADS == 0u || thread + i * THREADS < BLOCKS;
}

// The source of a thread's block `i` of the first slice.
fn first_source(i: u32, thread: u32, m0: u32, n0: u32) -> Source {
    let e = thread + i * THREADS;
    if is_of_a(i, thread) {
        let at = place(e, BM / 4u, !TA);
        return source(m0 + 4u * at.x, 4u * at.y, M, LDA, A_COLUMN, !TA);
    }
    let at = place(e - A_BLOCKS, BN / 4u, TB);
    return source(n0 + 4u * at.x, 4u * at.y, N, LDB, B_COLUMN, TB);
}

// How far a thread's block `i` of a slice is from that of the slice before.
fn advance(i: u32, thread: u32) -> u32 {
    if is_of_a(i, thread) {
        return select(BK / UNIT, BK * (LDA / UNIT), TA);
    }
    return select(BK * (LDB / UNIT), BK / UNIT, TB);
}

// The address of the quad that is `offset` from the first.
fn address(source: Source, offset: u32, length: u32, along: bool) -> u32 {
    if !along {
        return select(min(source.first + offset, source.last), source.first + offset, K % BK == 0u);
    }
    let first = select(min(source.first, source.last), source.first, K % BK == 0u);
    return first + select(min(offset, source.reach), offset, length % 4u == 0u);
}

// A thread's block `i` of a slice; where there is none it keeps what it has.
fn fetch(i: u32, thread: u32, source: Source, old: Block) -> Block {
    var block = old;
    if is_of_a(i, thread) {
        for (var q = 0u; q < 4u; q++) {
            block[q] = vec4<QUAD_TYPE>(a_stored(address(source, q * (LDA / UNIT), M, !TA)));
        }
    } else if exists(i, thread) {
        for (var q = 0u; q < 4u; q++) {
            block[q] = vec4<QUAD_TYPE>(b_stored(address(source, q * (LDB / UNIT), N, TB)));
        }
    }
    return block;
}

// Four steps from `k` on of a block, each a column of the result: zeros past the last.
fn steps(block: Block, k: u32, along: bool) -> mat4x4<f32> {
    var quads = mat4x4<f32>(vec4<f32>(block[0]), vec4<f32>(block[1]), vec4<f32>(block[2]), vec4<f32>(block[3]));
    if along {
        quads = transpose(quads);
    }
    if K % BK != 0u {
        for (var i = 0u; i < 4u; i++) {
            quads[i] = select(vec4<f32>(), quads[i], k + i < K);
        }
    }
    return quads;
}

// Writes a thread's block `i` of the slice from step `k0` to workgroup memory.
fn stage(i: u32, thread: u32, k0: u32, block: Block) {
    let e = thread + i * THREADS;
    if is_of_a(i, thread) {
        let at = place(e, BM / 4u, !TA);
        let quads = steps(block, k0 + 4u * at.y, !TA);
        let first = 4u * at.y * A_PITCH + at.x;
        a_slice[first] = quads[0];
        a_slice[first + A_PITCH] = quads[1];
        a_slice[first + 2u * A_PITCH] = quads[2];
        a_slice[first + 3u * A_PITCH] = quads[3];
    } else if exists(i, thread) {
        let at = place(e - A_BLOCKS, BN / 4u, TB);
        let quads = steps(block, k0 + 4u * at.y, TB);
        let first = 4u * at.y * B_PITCH + at.x;
        b_slice[first] = quads[0];
        b_slice[first + B_PITCH] = quads[1];
        b_slice[first + 2u * B_PITCH] = quads[2];
        b_slice[first + 3u * B_PITCH] = quads[3];
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
    var sources: array<Source, LOADS>;
    var next: array<Block, LOADS>;
    for (var i = 0u; i < LOADS; i++) {
        sources[i] = first_source(i, thread, m0, n0);
        next[i] = fetch(i, thread, sources[i], next[i]);
    }
    // count.z is 1, which compilers do not know: they would unroll short loops over slices as a whole, and run out of registers.
    for (var k0 = 0u; k0 < K * count.z; k0 += BK) {
        for (var i = 0u; i < LOADS; i++) {
            stage(i, thread, k0, next[i]);
        }
        workgroupBarrier();
        if k0 + BK < K {
            for (var i = 0u; i < LOADS; i++) {
                sources[i].first += advance(i, thread);
                next[i] = fetch(i, thread, sources[i], next[i]);
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
        if M % BM == 0u || m < M {
            for (var j = 0u; j < QN; j++) {
                store_quad(m, n0 + 4u * (tx + TX * j), sums[i][j]);
            }
        }
    }
}
