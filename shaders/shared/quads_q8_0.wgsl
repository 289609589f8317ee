// Four words of A, or of B in q8_0, four in a word, from element `i` on, where that is a multiple of four.
// use: a_quads block_scales

// The words of B.
alias B_TYPE = u32;

@group(0) @binding(1) var<storage, read> b: array<B_TYPE>;

fn b_quad(i: u32) -> vec4<f32> {
    return b_stored(i / UNIT);
}

fn b_stored(at: u32) -> vec4<f32> {
    let word = bitcast<i32>(b[at]);
    let bytes = vec4<i32>(word << 24u, word << 16u, word << 8u, word) >> vec4<u32>(24u);
    return block_scale(at * UNIT) * vec4<f32>(bytes);
}
