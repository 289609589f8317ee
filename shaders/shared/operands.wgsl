// Four elements of A or B from element `i` on, where that is a multiple of four, in the type they are multiplied in.
@group(0) @binding(0) var<storage, read> a: array<vec4<A_TYPE>>;
@group(0) @binding(1) var<storage, read> b: array<vec4<B_TYPE>>;

fn a_quad(i: u32) -> vec4<SLICE_TYPE> {
    return vec4<SLICE_TYPE>(a[i / 4u]);
}

fn b_quad(i: u32) -> vec4<SLICE_TYPE> {
    return vec4<SLICE_TYPE>(b[i / 4u]);
}
