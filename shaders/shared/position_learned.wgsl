// position_learned: the embedding of a position, t after the first one that is fed. Its user has C columns.
// use: step
@group(0) @binding(3) var<uniform> step: Step;
@group(0) @binding(4) var<storage, read> wpe: array<f32>;

fn position(t: u32, c: u32) -> f32 {
    return wpe[(step.position + t) * C + c];
}
