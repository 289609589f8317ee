// Four words of A or B from word `i` on, where that is a multiple of four.
// use: a_quads

// Element type of B.
alias B_TYPE = f32;

@group(0) @binding(1) var<storage, read> b: array<vec4<B_TYPE>>;

fn b_stored(at: u32) -> vec4<B_TYPE> {
    return b[at];
}

fn b_quad(i: u32) -> vec4<f32> {
    return vec4<f32>(b_stored(i / UNIT));
}
