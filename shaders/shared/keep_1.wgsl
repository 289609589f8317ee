// Dropout's factor of element `i`.
// use: values
fn keep_values(i: u32) -> VALUES {
    return keep_factor(i, step.micro_batch, step.seed, SALT, THRESHOLD, SCALE);
}
