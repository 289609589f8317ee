// Gradient of a row's log-probability under minus its mean by weights.
@group(0) @binding(3) var<storage, read> total: array<f32>; // (1): the weights' sum
@group(0) @binding(4) var<storage, read> dloss: array<f32>; // (1)
@group(0) @binding(5) var<storage, read> weights: array<f32>;

fn row_gradient(row: u32) -> f32 {
    return -(weights[row] * dloss[0] / max(total[0], 1e-20));
}
