// position_learned: the embedding of a row's position, counted from the step's; rows of T positions follow one another. Its user
// has C columns.
// use: step
@group(0) @binding(3) var<uniform> step: Step;
@group(0) @binding(4) var<storage, read> wpe: array<f32>;

fn position(row: u32, c: u32) -> f32 {
    return wpe[(step.position + row % T) * C + c];
}
