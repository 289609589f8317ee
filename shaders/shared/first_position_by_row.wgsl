// first_position_by_row: stands in for first_position where each row has a position of its own.
@group(0) @binding(3) var<storage, read> positions: array<u32>;

fn first_position(row: u32) -> u32 {
    return positions[row];
}
