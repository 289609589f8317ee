// The squared error of a value, the larger of its own and of that of a value that stays near an older one.
const CLIP: f32 = 0.2;

/// The error that counts.
fn value_error(value: f32, old: f32, wanted: f32) -> f32 {
    let plain = value - wanted;
    let near = clamp(value, old - CLIP, old + CLIP) - wanted;
    return select(plain, near, near * near > plain * plain);
}

/// The value's derivative of half the square of the error.
fn value_gradient(value: f32, old: f32, wanted: f32) -> f32 {
    let plain = value - wanted;
    let near = clamp(value, old - CLIP, old + CLIP) - wanted;
    return select(plain, 0.0, near * near > plain * plain);
}
