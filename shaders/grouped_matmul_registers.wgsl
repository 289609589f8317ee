// grouped_matmul_registers: C[r] = A[source(r)] op(B[expert of r]), rows sorted by expert, without workgroup memory. For CPUs
// behind a graphics API; matmul_registers says how.
//
//   A (.., K)    B (experts, K, N), or (experts, N, K) if TB    C (ROWS, N)    offsets (experts + 1) u32
//
// A workgroup is one subgroup and makes TM rows of one expert by 4 * LANES columns; those beyond the last tile leave at once.
// Reference: src/ops/grouped_matmul.rs
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
const ROWS: u32 = 64u;
// Rows of C per row of A, where those are gathered.
const TOP: u32 = 1u;
const TM: u32 = 16u;
// Size of a subgroup: a power of two, at least 4.
const LANES: u32 = 8u;

const TILES_N: u32 = (N + 4u * LANES - 1u) / (4u * LANES);
// One quad in each lane holds four steps of K for LANES rows of the tile.
const GROUPS: u32 = (TM + LANES - 1u) / LANES;

@group(0) @binding(2) var<storage, read_write> c: array<f32>;

// First word of the expert's matrix.
var<private> B_COLUMN: u32;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let tile = workgroup_index(id, count);
    let rows = tile_rows(tile / TILES_N, TM);
    if rows.first >= rows.end {
        return;
    }
    B_COLUMN = rows.expert * EXPERT_WORDS;
    let n0 = tile % TILES_N * (4u * LANES) + 4u * lane;
    // A lane's own rows.
    var words: array<u32, GROUPS>;
    for (var g = 0u; g < GROUPS; g++) {
        words[g] = source_row(min(rows.first + g * LANES + lane, rows.end - 1u)) * LDA + A_COLUMN;
    }
    var sums: array<vec4<f32>, TM>;
    for (var k = 0u; k < K; k += 4u) {
        var a_quads: array<vec4<f32>, GROUPS>;
        for (var g = 0u; g < GROUPS; g++) {
            a_quads[g] = within_k(a_quad(words[g] + k), k);
        }
        let b_quads = load_b(k, n0);
        for (var step = 0u; step < 4u; step++) {
            for (var i = 0u; i < TM; i++) {
                sums[i] += subgroupShuffle(a_quads[i / LANES][step], i % LANES) * b_quads[step];
            }
        }
    }
    // A row at a time, always from the same place: unrolled, the stores of all rows would take longest to compile.
    for (var m = rows.first; m < min(rows.first + TM, rows.end); m++) {
        for (var j = 0u; j < 4u; j++) {
            if n0 + j < N {
                store(m, n0 + j, sums[0][j]);
            }
        }
        for (var i = 1u; i < TM; i++) {
            sums[i - 1u] = sums[i];
        }
    }
}
