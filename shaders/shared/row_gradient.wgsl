// Gradient of a row's log-probability: given for each row.
@group(0) @binding(3) var<storage, read> dy: array<f32>;

fn row_gradient(row: u32) -> f32 {
    return dy[row];
}
