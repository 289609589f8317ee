// Sums start at zero and reach the epilogue `store` through workgroup memory, each subgroup's through its own.
const SUM_PITCH: u32 = TILE + 4u;

var<workgroup> sum_slices: array<f32, PARTS * TILE * SUM_PITCH>;

// A matrix of sums to be, which starts at this row and column of C.
fn begin(row: u32, column: u32) -> SUM_MATRIX {
    return SUM_MATRIX();
}

// Called by all of a workgroup, each subgroup with its matrix.
fn finish(sums: SUM_MATRIX, row: u32, column: u32, lane: Lane) {
    let slice = lane.part * (TILE * SUM_PITCH);
    coopStoreT(sums, &sum_slices[slice], SUM_PITCH);
    workgroupBarrier();
    for (var i = lane.index; lane.stores && i < TILE * TILE; i += lane.count) {
        let m = row + i / TILE;
        let n = column + i % TILE;
        if m < M && n < N {
            store(m, n, sum_slices[slice + i / TILE * SUM_PITCH + i % TILE]);
        }
    }
    workgroupBarrier();
}
