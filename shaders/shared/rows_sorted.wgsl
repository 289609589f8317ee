// Where the input row of sorted row `row` lies: in the same place, as the input is sorted by expert as well.
fn source_row(row: u32) -> u32 {
    return row;
}
