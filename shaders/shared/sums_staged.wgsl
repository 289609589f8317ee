// A matrix of sums reaches the epilogue `store` through workgroup memory, each subgroup's through its own.
const SUM_PITCH: u32 = TILE + 4u;

var<workgroup> sum_slices: array<f32, PARTS * TILE * SUM_PITCH>;

// Called by all of a workgroup, with a matrix that starts at this row and column of C. Only where it is `made` here it is stored.
fn finish(sums: SUM_MATRIX, row: u32, column: u32, part: u32, made: bool, lane: u32, lanes: u32) {
    let slice = part * (TILE * SUM_PITCH);
    let pitch = SUM_PITCH;
    coopStoreT(sums, &sum_slices[slice], pitch);
    workgroupBarrier();
    for (var i = lane; made && i < TILE * TILE; i += lanes) {
        let m = row + i / TILE;
        let n = column + i % TILE;
        if m < M && n < N {
            store(m, n, sum_slices[slice + i / TILE * SUM_PITCH + i % TILE]);
        }
    }
    workgroupBarrier();
}
