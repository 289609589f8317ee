// Weight of a row in a mean: given for each row.
const LEAST_WEIGHT: f32 = 1e-20;

@group(0) @binding(3) var<storage, read> weights: array<f32>;

fn row_weight(row: u32) -> f32 {
    return weights[row];
}
