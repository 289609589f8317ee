// Scores with a bias by head and distance of a key from a query; heads are counted over the batch.
@group(0) @binding(BIAS_BINDING) var<storage, read> bias: array<f32>; // (NH, DISTANCES)

fn biased(s: vec4<f32>, head: u32, i: vec4<u32>, j: vec4<u32>) -> vec4<f32> {
    let at = head % NH * DISTANCES + (TQ - 1u) + min(j, vec4<u32>(TK - 1u)) - min(i, vec4<u32>(TQ - 1u));
    return s + vec4<f32>(bias[at.x], bias[at.y], bias[at.z], bias[at.w]);
}
