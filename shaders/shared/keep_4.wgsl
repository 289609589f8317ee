// Dropout's factors of the four elements of quad `i`.
// use: values
fn keep_values(i: u32) -> VALUES {
    let pair = keep_pair(2u * i, step.micro_batch, step.seed, SALT, THRESHOLD, SCALE);
    let next = keep_pair(2u * i + 1u, step.micro_batch, step.seed, SALT, THRESHOLD, SCALE);
    return vec4<f32>(pair, next);
}
