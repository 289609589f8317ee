// The logistic function. Its argument is clamped: exp overflows past 88, and WGSL lets compilers assume that nothing does.
// use: values
fn sigmoid(x: VALUES) -> VALUES {
    return 1.0 / (1.0 + exp(min(-x, VALUES(80.0))));
}
