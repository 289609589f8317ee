// position_learned: the embedding of a row's position, counted from the step's; rows of T positions follow one another. Its user
// has C columns.
// use: step values
@group(0) @binding(3) var<uniform> step: Step;
@group(0) @binding(4) var<storage, read> wpe: array<VALUES>;

fn position(row: u32, c: u32) -> VALUES {
    return wpe[(step.position + row % T) * C + c];
}
