// Cooperative matrices of 16 x 16, as on most Vulkan devices, and the slices they are loaded from: quads, counted in elements.
const TILE: u32 = 16u;

alias A_MATRIX = coop_mat16x16<SLICE_TYPE, A>;
alias B_MATRIX = coop_mat16x16<SLICE_TYPE, B>;
alias SUM_MATRIX = coop_mat16x16<f32, C>;

var<workgroup> a_slice: array<vec4<SLICE_TYPE>, A_HEIGHT * A_PITCH / 4u>;
var<workgroup> b_slice: array<vec4<SLICE_TYPE>, B_HEIGHT * B_PITCH / 4u>;

fn put_a(i: u32, quad: vec4<SLICE_TYPE>) {
    a_slice[i / 4u] = quad;
}

fn put_b(i: u32, quad: vec4<SLICE_TYPE>) {
    b_slice[i / 4u] = quad;
}

fn a_matrix(m: u32, k: u32) -> A_MATRIX {
    if TA {
        return coopLoad<A_MATRIX>(&a_slice[(k * A_PITCH + m) / 4u], A_PITCH / 4u);
    }
    return coopLoadT<A_MATRIX>(&a_slice[(m * A_PITCH + k) / 4u], A_PITCH / 4u);
}

fn b_matrix(k: u32, n: u32) -> B_MATRIX {
    if TB {
        return coopLoad<B_MATRIX>(&b_slice[(n * B_PITCH + k) / 4u], B_PITCH / 4u);
    }
    return coopLoadT<B_MATRIX>(&b_slice[(k * B_PITCH + n) / 4u], B_PITCH / 4u);
}
