// Cooperative matrices of 8 x 8, as on Metal, and the slices they are loaded from: single elements, as Metal's loads want.
const TILE: u32 = 8u;

alias A_MATRIX = coop_mat8x8<SLICE_TYPE, A>;
alias B_MATRIX = coop_mat8x8<SLICE_TYPE, B>;
alias SUM_MATRIX = coop_mat8x8<f32, C>;

var<workgroup> a_slice: array<SLICE_TYPE, A_HEIGHT * A_PITCH>;
var<workgroup> b_slice: array<SLICE_TYPE, B_HEIGHT * B_PITCH>;

fn put_a(i: u32, quad: vec4<SLICE_TYPE>) {
    a_slice[i] = quad.x;
    a_slice[i + 1u] = quad.y;
    a_slice[i + 2u] = quad.z;
    a_slice[i + 3u] = quad.w;
}

fn put_b(i: u32, quad: vec4<SLICE_TYPE>) {
    b_slice[i] = quad.x;
    b_slice[i + 1u] = quad.y;
    b_slice[i + 2u] = quad.z;
    b_slice[i + 3u] = quad.w;
}

fn a_matrix(m: u32, k: u32) -> A_MATRIX {
    if TA {
        return coopLoad<A_MATRIX>(&a_slice[k * A_PITCH + m], A_PITCH);
    }
    return coopLoadT<A_MATRIX>(&a_slice[m * A_PITCH + k], A_PITCH);
}

fn b_matrix(k: u32, n: u32) -> B_MATRIX {
    if TB {
        return coopLoad<B_MATRIX>(&b_slice[n * B_PITCH + k], B_PITCH);
    }
    return coopLoadT<B_MATRIX>(&b_slice[k * B_PITCH + n], B_PITCH);
}
