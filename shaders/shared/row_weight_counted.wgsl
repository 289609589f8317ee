// Weight of a row in a mean: 1, or 0 where its target is ignored.
const LEAST_WEIGHT: f32 = 1.0;

@group(0) @binding(3) var<storage, read> targets: array<u32>;

fn row_weight(row: u32) -> f32 {
    return select(1.0, 0.0, targets[row] == 0xffffffffu);
}
