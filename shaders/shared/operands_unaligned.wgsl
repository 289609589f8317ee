// Four elements of A or B from element `i` on, wherever that is, in the type they are multiplied in. Past the end of a matrix
// its last element repeats.
@group(0) @binding(0) var<storage, read> a: array<A_TYPE>;
@group(0) @binding(1) var<storage, read> b: array<B_TYPE>;

fn a_quad(i: u32) -> vec4<SLICE_TYPE> {
    let at = min(i + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(arrayLength(&a) - 1u));
    return vec4<SLICE_TYPE>(vec4<A_TYPE>(a[at.x], a[at.y], a[at.z], a[at.w]));
}

fn b_quad(i: u32) -> vec4<SLICE_TYPE> {
    let at = min(i + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(arrayLength(&b) - 1u));
    return vec4<SLICE_TYPE>(vec4<B_TYPE>(b[at.x], b[at.y], b[at.z], b[at.w]));
}
