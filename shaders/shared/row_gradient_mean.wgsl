// Gradient of a row's log-probability under minus its mean over the rows that count.
@group(0) @binding(3) var<storage, read> counted: array<f32>; // (1): rows that count
@group(0) @binding(4) var<storage, read> dloss: array<f32>; // (1)

fn row_gradient(row: u32) -> f32 {
    return -(dloss[0] / max(counted[0], 1.0));
}
