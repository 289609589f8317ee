// The logistic function. Its argument is clamped: exp overflows past 88, and WGSL lets compilers assume that nothing does.
fn sigmoid(x: f32) -> f32 {
    return 1.0 / (1.0 + exp(min(-x, 80.0)));
}
