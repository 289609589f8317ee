// The gate of SwiGLU, silu(x) = x sigmoid(x), and its derivative.
// use: silu
fn gate_value(x: f32) -> f32 {
    return x * sigmoid(x);
}

fn gate_derivative(x: f32) -> f32 {
    let s = sigmoid(x);
    return s * (1.0 + x * (1.0 - s));
}
