// Slabs of rows that pass through workgroup memory in attention's kernels for GPUs: of a block of 4 TX rows, TX quads of columns at
// a time where they are multiplied with rows that stay, and ACROSS rows of each quarter at a time where they are summed up. While one
// slab is multiplied the next is on its way from memory, and it is staged beside that one.
//
// Its user has TX, THREADS, and quad `x` of a row of tensor `part`, rows past the end being the last: passing(part, row, x).
const BLOCK: u32 = 4u * TX;
// Vec4 of a row of sums that a thread owns, at distance TX.
const COLUMNS: u32 = (HV + TX - 1u) / TX;
const COLUMN_SLABS: u32 = COLUMNS;
const ACROSS: u32 = max(TX / COLUMN_SLABS, 1u);
const ROW_SLABS: u32 = (TX + ACROSS - 1u) / ACROSS;
// Odd, so that rows start in different banks.
const PITCH: u32 = HV | 1u;
const SLAB_PITCH: u32 = TX | 1u;
const SLAB: u32 = max(BLOCK * SLAB_PITCH, 4u * ACROSS * PITCH);
// Quads of a slab, and those of a thread.
const COLUMN_QUADS: u32 = BLOCK * TX;
const ROW_QUADS: u32 = 4u * ACROSS * HV;
const LOADS: u32 = (max(COLUMN_QUADS, ROW_QUADS) + THREADS - 1u) / THREADS;

alias Ahead = array<vec4<X_TYPE>, LOADS>;

var<workgroup> slabs: array<vec4<X_TYPE>, 2u * SLAB>;

// This thread's quads of columns `slab` TX and on of the block from row `row` on. The last column repeats, and is not multiplied.
fn fetch_columns(part: u32, row: u32, slab: u32, thread: u32) -> Ahead {
    var ahead: Ahead;
    for (var n = 0u; n < LOADS; n++) {
        let e = min(thread + n * THREADS, COLUMN_QUADS - 1u);
        ahead[n] = passing(part, row + e / TX, min(slab * TX + e % TX, HV - 1u));
    }
    return ahead;
}

fn stage_columns(ahead: Ahead, first: u32, thread: u32) {
    for (var n = 0u; n < LOADS; n++) {
        let e = thread + n * THREADS;
        if e < COLUMN_QUADS {
            slabs[first + e / TX * SLAB_PITCH + e % TX] = ahead[n];
        }
    }
}

// This thread's quads of ACROSS rows from `row` + `slab` ACROSS on, and of those at distance TX, 2 TX and 3 TX.
fn fetch_rows(part: u32, row: u32, slab: u32, thread: u32) -> Ahead {
    var ahead: Ahead;
    for (var n = 0u; n < LOADS; n++) {
        let e = min(thread + n * THREADS, ROW_QUADS - 1u);
        let own = e / HV;
        ahead[n] = passing(part, row + slab * ACROSS + own / 4u + own % 4u * TX, e % HV);
    }
    return ahead;
}

fn stage_rows(ahead: Ahead, first: u32, thread: u32) {
    for (var n = 0u; n < LOADS; n++) {
        let e = thread + n * THREADS;
        if e < ROW_QUADS {
            slabs[first + e / HV * PITCH + e % HV] = ahead[n];
        }
    }
}

// Four quads of a slab, from `at` on at a distance.
fn four(at: u32, distance: u32) -> mat4x4<f32> {
    return mat4x4<f32>(
        vec4<f32>(slabs[at]),
        vec4<f32>(slabs[at + distance]),
        vec4<f32>(slabs[at + 2u * distance]),
        vec4<f32>(slabs[at + 3u * distance]),
    );
}

// Quad x of the rows tx, tx + TX, tx + 2 TX and tx + 3 TX of a slab of columns.
fn four_of_columns(first: u32, tx: u32, x: u32) -> mat4x4<f32> {
    return four(first + tx * SLAB_PITCH + x, TX * SLAB_PITCH);
}

// Quad `column` of row x of each quarter in a slab of rows.
fn four_of_rows(first: u32, x: u32, column: u32) -> mat4x4<f32> {
    return four(first + 4u * x * PITCH + column, PITCH);
}
