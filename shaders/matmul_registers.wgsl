// matmul_registers: C (M, N) = op(A) op(B), without workgroup memory. For CPUs behind a graphics API, where the lanes of a
// subgroup are SIMD, a barrier is a coroutine switch, and any load in a loop, uniform or not, takes the lanes one by one:
// on lavapipe about 50 instructions per lane for a vec4, 30 for a word. Arithmetic is cheap next to that.
//
//   A is stored (M, K), or (K, M) if TA;  B is stored (K, N), or (N, K) if TB;  C (M, N); all row-major with row lengths LD*
//
// A workgroup is one subgroup and makes a tile of C of TM rows by 4 * LANES columns, four columns per lane, from four steps
// of K at a time. No word is loaded twice: each lane has its own quads of B, and the lanes share out those of A, whose
// values then reach the others by shuffles, one instruction each. Reference: src/ops/matmul.rs
// use: index store edges
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
const TM: u32 = 16u;
// Size of a subgroup: a power of two, at least 4.
const LANES: u32 = 8u;

const BN: u32 = 4u * LANES;
const TILES_M: u32 = (M + TM - 1u) / TM;
const TILES_N: u32 = (N + BN - 1u) / BN;
// One quad in each lane holds four steps of K for LANES rows of the tile.
const GROUPS: u32 = (TM + LANES - 1u) / LANES;

@group(0) @binding(2) var<storage, read_write> c: array<STORED>;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let tile = workgroup_index(id, count);
    if tile >= TILES_M * TILES_N {
        return;
    }
    let m0 = tile / TILES_N * TM;
    let n0 = tile % TILES_N * BN + 4u * lane;
    var sums: array<vec4<f32>, TM>;
    for (var k = 0u; k < K; k += 4u) {
        var a_quads: array<vec4<f32>, GROUPS>;
        for (var g = 0u; g < GROUPS; g++) {
            a_quads[g] = load_a(m0 + g * LANES, k, lane);
        }
        let b_quads = load_b(k, n0);
        for (var step = 0u; step < 4u; step++) {
            for (var i = 0u; i < TM; i++) {
                let quad = a_quads[i / LANES];
                let row = i % LANES;
                let value = select(quad[step], quad[row % 4u], TA);
                let holder = select(row, row / 4u * 4u + step, TA);
                sums[i] += subgroupShuffle(value, holder) * b_quads[step];
            }
        }
    }
    // A row at a time, always from the same place: unrolled, the stores of all rows would take longest to compile.
    for (var m = m0; m < min(m0 + TM, M); m++) {
        store_quad(m, n0, sums[0]);
        for (var i = 1u; i < TM; i++) {
            sums[i - 1u] = sums[i];
        }
    }
}

// A lane's share of LANES rows of op(A) from `m`, in steps `k` to `k + 3`: its own row, or four rows at its own step.
fn load_a(m: u32, k: u32, lane: u32) -> vec4<f32> {
    if TA {
        let step = k + lane % 4u;
        let row = min(m + lane / 4u * 4u, (M - 1u) / 4u * 4u);
        return select(vec4<f32>(), a_quad(min(step, K - 1u) * LDA + A_COLUMN + row), step < K);
    }
    return within_k(a_quad(min(m + lane, M - 1u) * LDA + A_COLUMN + k), k);
}
