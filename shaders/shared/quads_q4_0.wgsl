// Four words of A, or of B in q4_0, eight in a word, from element `i` on, where that is a multiple of four.
// use: a_quads block_scales

// The words of B.
alias B_TYPE = u32;

@group(0) @binding(1) var<storage, read> b: array<B_TYPE>;

fn b_quad(i: u32) -> vec4<f32> {
    return b_stored(i / UNIT);
}

fn b_stored(at: u32) -> vec4<f32> {
    let word = b[at / 2u] >> ((at & 1u) * 16u);
    let nibbles = (vec4<u32>(word) >> vec4<u32>(0u, 4u, 8u, 12u)) & vec4<u32>(15u);
    return block_scale(at * UNIT) * (vec4<f32>(nibbles) - 8.0);
}
