// Four words of A, or of B packed as q4_0, from element `i` on, where that is a multiple of four. A block of 32 elements of B has
// a scale, two of them in a word.

// Element types of A, and of the words of B.
alias A_TYPE = f32;
alias B_TYPE = u32;
const SCALES_BINDING: u32 = 0u;

@group(0) @binding(0) var<storage, read> a: array<vec4<A_TYPE>>;
@group(0) @binding(1) var<storage, read> b: array<B_TYPE>;
@group(0) @binding(SCALES_BINDING) var<storage, read> scales: array<u32>;

fn a_quad(i: u32) -> vec4<f32> {
    return vec4<f32>(a[i / 4u]);
}

fn b_quad(i: u32) -> vec4<f32> {
    let word = b[i / 8u] >> ((i & 4u) * 4u);
    let pair = unpack2x16float(scales[i / 64u]);
    let scale = select(pair.x, pair.y, (i & 32u) != 0u);
    let nibbles = (vec4<u32>(word) >> vec4<u32>(0u, 4u, 8u, 12u)) & vec4<u32>(15u);
    return scale * (vec4<f32>(nibbles) - 8.0);
}
