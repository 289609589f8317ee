// grouped_weights_registers: C[e] = sum over the rows r of expert e of A[r]^T B[source(r)], or C[e] += it: the gradient of the
// experts' matrices, without workgroup memory. For CPUs behind a graphics API; matmul_registers says how.
//
//   A (ROWS, M)    B (.., N)    C (experts, M, N)    offsets (experts + 1) u32
//
// A workgroup is one subgroup and makes TM rows by 4 * LANES columns of one expert's matrix, from four rows of A and B at a
// time. An idle expert's gradient is zero. Reference: src/ops/grouped_weights.rs
// use: index store expert_rows rows_sorted quads
const M: u32 = 64u;
const N: u32 = 64u;
const LDA: u32 = 64u;
const LDB: u32 = 64u;
const LDC: u32 = 64u;
const A_COLUMN: u32 = 0u;
const C_COLUMN: u32 = 0u;
const ACCUMULATE: bool = false;
const FIRST_EXPERT: u32 = 0u;
const EXPERTS: u32 = 8u;
const FIRST_ROW: u32 = 0u;
const ROWS: u32 = 64u;
// Rows of A per row of B, where those are gathered.
const TOP: u32 = 1u;
const TM: u32 = 16u;
// Size of a subgroup: a power of two, at least 4.
const LANES: u32 = 8u;

const TILES_M: u32 = (M + TM - 1u) / TM;
const TILES_N: u32 = (N + 4u * LANES - 1u) / (4u * LANES);
// One quad in each lane holds LANES columns of A, a quarter of them in each of four rows.
const GROUPS: u32 = (TM + LANES - 1u) / LANES;

@group(0) @binding(2) var<storage, read_write> c: array<f32>;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let tile = workgroup_index(id, count);
    if tile >= EXPERTS * TILES_M * TILES_N {
        return;
    }
    let rows = expert_rows(tile / (TILES_M * TILES_N));
    let m0 = tile / TILES_N % TILES_M * TM;
    let n0 = tile % TILES_N * (4u * LANES) + 4u * lane;
    var sums: array<vec4<f32>, TM>;
    for (var first = rows.first; first < rows.end; first += 4u) {
        var a_quads: array<vec4<f32>, GROUPS>;
        for (var g = 0u; g < GROUPS; g++) {
            let row = first + lane % 4u;
            let m = min(m0 + g * LANES + lane / 4u * 4u, (M - 1u) / 4u * 4u);
            let quad = a_quad(min(row, rows.end - 1u) * LDA + A_COLUMN + m);
            a_quads[g] = select(vec4<f32>(), quad, row < rows.end);
        }
        for (var step = 0u; step < 4u; step++) {
            let row = source_row(min(first + step, rows.end - 1u));
            let b_quads = b_quad(row * LDB + min(n0, (N - 1u) / 4u * 4u));
            for (var i = 0u; i < TM; i++) {
                let value = a_quads[i / LANES][i % 4u];
                sums[i] += subgroupShuffle(value, i % LANES / 4u * 4u + step) * b_quads;
            }
        }
    }
    if ACCUMULATE && rows.first >= rows.end {
        return;
    }
    // A row at a time, always from the same place: unrolled, the stores of all rows would take longest to compile.
    for (var m = m0; m < min(m0 + TM, M); m++) {
        for (var j = 0u; j < 4u; j++) {
            if n0 + j < N {
                store(rows.expert * M + m, n0 + j, sums[0][j]);
            }
        }
        for (var i = 1u; i < TM; i++) {
            sums[i - 1u] = sums[i];
        }
    }
}
