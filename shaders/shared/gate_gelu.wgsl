// The gate of GEGLU, gelu(x), and its derivative.
// use: gelu
fn gate_value(x: VALUES) -> VALUES {
    return gelu(x);
}

fn gate_derivative(x: VALUES) -> VALUES {
    return gelu_derivative(x);
}
