// Four words of A or B from word `i` on, where that is a multiple of four.
@group(0) @binding(0) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> b: array<vec4<f32>>;

fn a_quad(i: u32) -> vec4<f32> {
    return a[i / 4u];
}

fn b_quad(i: u32) -> vec4<f32> {
    return b[i / 4u];
}
