// Four words of A or B from word `i` on, where that is a multiple of four.

// Element types of A and B.
alias A_TYPE = f32;
alias B_TYPE = f32;

@group(0) @binding(0) var<storage, read> a: array<vec4<A_TYPE>>;
@group(0) @binding(1) var<storage, read> b: array<vec4<B_TYPE>>;

fn a_quad(i: u32) -> vec4<f32> {
    return vec4<f32>(a[i / 4u]);
}

fn b_quad(i: u32) -> vec4<f32> {
    return vec4<f32>(b[i / 4u]);
}
