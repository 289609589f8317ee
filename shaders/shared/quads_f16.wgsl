// Four words of A, or of B packed as f16, from element `i` on, where that is a multiple of four.

// Element types of A, and of the words of B.
alias A_TYPE = f32;
alias B_TYPE = u32;

@group(0) @binding(0) var<storage, read> a: array<vec4<A_TYPE>>;
@group(0) @binding(1) var<storage, read> b: array<vec2<B_TYPE>>;

fn a_quad(i: u32) -> vec4<f32> {
    return vec4<f32>(a[i / 4u]);
}

fn b_quad(i: u32) -> vec4<f32> {
    let words = b[i / 4u];
    return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
}
