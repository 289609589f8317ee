// Four words of A or B from word `i` on, wherever that is. Past the end of a matrix its last word repeats.

// Element types of A and B.
alias A_TYPE = f32;
alias B_TYPE = f32;

@group(0) @binding(0) var<storage, read> a: array<A_TYPE>;
@group(0) @binding(1) var<storage, read> b: array<B_TYPE>;

// Elements that an address counts.
const UNIT: u32 = 1u;

// The quad at an address, as it is stored.
fn a_stored(i: u32) -> vec4<A_TYPE> {
    let at = min(i + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(arrayLength(&a) - 1u));
    return vec4<A_TYPE>(a[at.x], a[at.y], a[at.z], a[at.w]);
}

fn b_stored(i: u32) -> vec4<B_TYPE> {
    let at = min(i + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(arrayLength(&b) - 1u));
    return vec4<B_TYPE>(b[at.x], b[at.y], b[at.z], b[at.w]);
}

fn a_quad(i: u32) -> vec4<f32> {
    return vec4<f32>(a_stored(i));
}

fn b_quad(i: u32) -> vec4<f32> {
    return vec4<f32>(b_stored(i));
}
