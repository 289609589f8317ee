// Where the input row of sorted row `row` lies: at the token of the pair (token, choice) that was sorted there.
@group(0) @binding(4) var<storage, read> order: array<u32>;

fn source_row(row: u32) -> u32 {
    return order[FIRST_ROW + row] / TOP;
}
