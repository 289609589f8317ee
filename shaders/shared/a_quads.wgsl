// Four words of A from element `i` on, where that is a multiple of four.

// Element type of A.
alias A_TYPE = f32;

@group(0) @binding(0) var<storage, read> a: array<vec4<A_TYPE>>;

// Elements that an address counts.
const UNIT: u32 = 4u;

// The quad at an address, as it is stored.
fn a_stored(at: u32) -> vec4<A_TYPE> {
    return a[at];
}

fn a_quad(i: u32) -> vec4<f32> {
    return vec4<f32>(a_stored(i / UNIT));
}
