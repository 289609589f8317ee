// The weight of a choice: all count alike.
fn weight(pair: u32) -> f32 {
    return 1.0;
}
