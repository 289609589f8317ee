// Scores as they are.

fn biased(s: vec4<f32>, head: u32, i: vec4<u32>, j: vec4<u32>) -> vec4<f32> {
    return s;
}
