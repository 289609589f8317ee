// Four words of A, or of B in f16, two in a word, from element `i` on, where that is a multiple of four.
// use: a_quads

// The words of B.
alias B_TYPE = u32;

@group(0) @binding(1) var<storage, read> b: array<vec2<B_TYPE>>;

fn b_quad(i: u32) -> vec4<f32> {
    return b_stored(i / UNIT);
}

fn b_stored(at: u32) -> vec4<f32> {
    let words = b[at];
    return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
}
