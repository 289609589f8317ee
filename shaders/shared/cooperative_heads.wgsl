// What the kernels of attention on cooperative matrices have in common. A workgroup owns OWNED rows of a head, kept in one slice
// or two; blocks of PASSING rows pass through another. Their products reach all threads through `sums`, what threads make of
// them goes to `weights` (OWNED, PASSING), and weights times the rows that pass are summed over all blocks, TM x TN matrices of
// the (OWNED, HS) result in each subgroup.
// use: cooperative_heads_16

// The parts of a result, one for each subgroup.
const PARTS_N: u32 = HS / (TN * TILE);
const PARTS: u32 = OWNED / (TM * TILE) * PARTS_N;
const THREADS: u32 = PARTS * LANES;
// 16 bytes more per row, which keeps the alignment that loads of cooperative matrices need, against bank conflicts.
const PITCH: u32 = HS + 8u;
const W_PITCH: u32 = PASSING + 8u;
const S_PITCH: u32 = PASSING + 4u;
// Of one matrix of sums that goes through workgroup memory, each subgroup's through its own part of `sums`.
const M_PITCH: u32 = TILE + 4u;
const SUMS: u32 = max(OWNED * S_PITCH, PARTS * TILE * M_PITCH);
// Threads side by side along a row of `sums`, threads below each other, and rows and quads of a row that a thread has.
const ACROSS: u32 = select(4u, 8u, THREADS >= 8u * OWNED);
const DOWN: u32 = THREADS / ACROSS;
const ROWS: u32 = (OWNED + DOWN - 1u) / DOWN;
const QUADS: u32 = PASSING / (4u * ACROSS);
// Quads of rows that pass, per thread.
const NEXT: u32 = (PASSING * HV + THREADS - 1u) / THREADS;
const FEW_UNITS: bool = OWNED / (2u * TILE) * (PASSING / (2u * TILE)) < PARTS;
// A unit of products: UNIT_M x 2 matrices.
const UNIT_M: u32 = select(2u, 1u, FEW_UNITS || OWNED < 2u * TILE);
const UNITS_N: u32 = PASSING / (2u * TILE);
const UNITS: u32 = OWNED / (UNIT_M * TILE) * UNITS_N;
const_assert TM >= 1u && TM <= 2u && TN >= 1u && TN <= 4u;
const_assert OWNED % (TM * TILE) == 0u && HS % (TN * TILE) == 0u && PASSING % (2u * TILE) == 0u;
const_assert PASSING % (4u * ACROSS) == 0u && THREADS % ACROSS == 0u;

// Where a thread is.
struct Lane {
    // In its subgroup, and how many there are in it.
    index: u32,
    count: u32,
    // The part of this round that its subgroup has, and whether it is the one to store it.
    part: u32,
    stores: bool,
}

// This thread's share of the rows that pass next.
var<private> next: array<vec4<f16>, NEXT>;

// Writes what was fetched to workgroup memory.
fn stage(thread: u32) {
    for (var n = 0u; n < NEXT; n++) {
        let e = thread + n * THREADS;
        if PASSING * HV % THREADS == 0u || e < PASSING * HV {
            put_passing(e / HV * PITCH + e % HV * 4u, next[n]);
        }
    }
}

// sums = rows that are owned, from element `at` on, times those that pass: each subgroup some units.
fn products(at: u32, subgroup: u32, subgroups: u32) {
    for (var unit = subgroup; unit < UNITS; unit += subgroups) {
        let row = unit / UNITS_N * (UNIT_M * TILE);
        let column = unit % UNITS_N * (2u * TILE);
        var s00 = SUM_MATRIX(); var s01 = SUM_MATRIX();
        var s10 = SUM_MATRIX(); var s11 = SUM_MATRIX();
        for (var x = 0u; x < HS; x += TILE) {
            let a0 = owned_matrix(at + row * PITCH + x);
            let b0 = passing_transposed(column * PITCH + x);
            let b1 = passing_transposed((column + TILE) * PITCH + x);
            s00 = coopMultiplyAdd(a0, b0, s00);
            s01 = coopMultiplyAdd(a0, b1, s01);
            if UNIT_M == 2u {
                let a1 = owned_matrix(at + (row + TILE) * PITCH + x);
                s10 = coopMultiplyAdd(a1, b0, s10);
                s11 = coopMultiplyAdd(a1, b1, s11);
            }
        }
        put_sum_matrix(row * S_PITCH + column, S_PITCH, s00);
        put_sum_matrix(row * S_PITCH + column + TILE, S_PITCH, s01);
        if UNIT_M == 2u {
            put_sum_matrix((row + TILE) * S_PITCH + column, S_PITCH, s10);
            put_sum_matrix((row + TILE) * S_PITCH + column + TILE, S_PITCH, s11);
        }
    }
}

// The columns of a quad of `sums`, or of `weights`.
fn quad_column(across: u32, n: u32) -> u32 {
    return 4u * (across + ACROSS * n);
}
