// Cooperative matrices of 8 x 8, as on Metal, and the slices of attention: single elements, as Metal's loads want.
const TILE: u32 = 8u;

alias A_MATRIX = coop_mat8x8<f16, A>;
alias B_MATRIX = coop_mat8x8<f16, B>;
alias SUM_MATRIX = coop_mat8x8<f32, C>;

var<workgroup> owned: array<f16, OWNED_PARTS * OWNED * PITCH>;
var<workgroup> passing: array<f16, PASSING * PITCH>;
var<workgroup> weights: array<f16, OWNED * W_PITCH>;
var<workgroup> sums: array<f32, SUMS>;

fn put_owned(i: u32, quad: vec4<f16>) {
    owned[i] = quad.x;
    owned[i + 1u] = quad.y;
    owned[i + 2u] = quad.z;
    owned[i + 3u] = quad.w;
}

fn put_passing(i: u32, quad: vec4<f16>) {
    passing[i] = quad.x;
    passing[i + 1u] = quad.y;
    passing[i + 2u] = quad.z;
    passing[i + 3u] = quad.w;
}

fn put_weights(i: u32, quad: vec4<f16>) {
    weights[i] = quad.x;
    weights[i + 1u] = quad.y;
    weights[i + 2u] = quad.z;
    weights[i + 3u] = quad.w;
}

fn owned_quad(i: u32) -> vec4<f16> {
    return vec4<f16>(owned[i], owned[i + 1u], owned[i + 2u], owned[i + 3u]);
}

fn sum_quad(i: u32) -> vec4<f32> {
    return vec4<f32>(sums[i], sums[i + 1u], sums[i + 2u], sums[i + 3u]);
}

fn put_sums(i: u32, quad: vec4<f32>) {
    sums[i] = quad.x;
    sums[i + 1u] = quad.y;
    sums[i + 2u] = quad.z;
    sums[i + 3u] = quad.w;
}

fn owned_matrix(i: u32) -> A_MATRIX {
    return coopLoadT<A_MATRIX>(&owned[i], PITCH);
}

fn passing_matrix(i: u32) -> B_MATRIX {
    return coopLoadT<B_MATRIX>(&passing[i], PITCH);
}

// The same rows as columns.
fn passing_transposed(i: u32) -> B_MATRIX {
    return coopLoad<B_MATRIX>(&passing[i], PITCH);
}

fn weight_matrix(i: u32) -> A_MATRIX {
    return coopLoadT<A_MATRIX>(&weights[i], W_PITCH);
}

fn sum_matrix(i: u32, pitch: u32) -> SUM_MATRIX {
    return coopLoadT<SUM_MATRIX>(&sums[i], pitch);
}

fn put_sum_matrix(i: u32, pitch: u32, matrix: SUM_MATRIX) {
    coopStoreT(matrix, &sums[i], pitch);
}
