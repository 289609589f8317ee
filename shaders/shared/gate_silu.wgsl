// The gate of SwiGLU, silu(x) = x sigmoid(x), and its derivative.
// use: silu
fn gate_value(x: VALUES) -> VALUES {
    return x * sigmoid(x);
}

fn gate_derivative(x: VALUES) -> VALUES {
    let s = sigmoid(x);
    return s * (1.0 + x * (1.0 - s));
}
