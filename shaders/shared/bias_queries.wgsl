// Scores with a bias of each query, by head and distance of a key before the query; heads are counted over the batch.
@group(0) @binding(BIAS_BINDING) var<storage, read> bias: array<f32>; // (B, TQ, NH, TK)

fn biased(s: vec4<f32>, head: u32, i: vec4<u32>, j: vec4<u32>) -> vec4<f32> {
    let query = min(i, vec4<u32>(TQ - 1u));
    // Keys after the query are masked, whatever their bias.
    let distance = query + (TK - TQ) - min(j, query + (TK - TQ));
    let at = ((head / NH * TQ + query) * NH + head % NH) * TK + distance;
    return s + vec4<f32>(bias[at.x], bias[at.y], bias[at.z], bias[at.w]);
}
