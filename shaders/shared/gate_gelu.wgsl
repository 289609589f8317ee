// The gate of GEGLU, gelu(x), and its derivative.
// use: gelu
fn gate_value(x: f32) -> f32 {
    return gelu(x);
}

fn gate_derivative(x: f32) -> f32 {
    return gelu_derivative(x);
}
