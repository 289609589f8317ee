// Sums are loaded from C, where they add to it, and stored there: f32, without further epilogue, in whole tiles, with rows
// that start at multiples of four.
const_assert M % BM == 0u && N % BN == 0u && LDC % 4u == 0u && C_COLUMN % 4u == 0u;

fn begin(row: u32, column: u32) -> SUM_MATRIX {
    if ACCUMULATE {
        let first = row * LDC + C_COLUMN + column;
        return coopLoadT<SUM_MATRIX>(&c[first], LDC);
    }
    return SUM_MATRIX();
}

// Subgroups that repeat a part store it again: all have loaded the old values before any stores.
fn finish(sums: SUM_MATRIX, row: u32, column: u32, lane: Lane) {
    let first = row * LDC + C_COLUMN + column;
    coopStoreT(sums, &c[first], LDC);
}
