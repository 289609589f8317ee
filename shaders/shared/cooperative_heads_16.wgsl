// Cooperative matrices of 16 x 16, as on most Vulkan devices, and the slices of attention: quads, counted in elements.
const TILE: u32 = 16u;

alias A_MATRIX = coop_mat16x16<f16, A>;
alias B_MATRIX = coop_mat16x16<f16, B>;
alias SUM_MATRIX = coop_mat16x16<f32, C>;

var<workgroup> owned: array<vec4<f16>, OWNED_PARTS * OWNED * PITCH / 4u>;
var<workgroup> passing: array<vec4<f16>, PASSING * PITCH / 4u>;
var<workgroup> weights: array<vec4<f16>, OWNED * W_PITCH / 4u>;
var<workgroup> sums: array<vec4<f32>, SUMS / 4u>;

fn put_owned(i: u32, quad: vec4<f16>) {
    owned[i / 4u] = quad;
}

fn put_passing(i: u32, quad: vec4<f16>) {
    passing[i / 4u] = quad;
}

fn put_weights(i: u32, quad: vec4<f16>) {
    weights[i / 4u] = quad;
}

fn owned_quad(i: u32) -> vec4<f16> {
    return owned[i / 4u];
}

fn sum_quad(i: u32) -> vec4<f32> {
    return sums[i / 4u];
}

fn put_sums(i: u32, quad: vec4<f32>) {
    sums[i / 4u] = quad;
}

fn owned_matrix(i: u32) -> A_MATRIX {
    return coopLoadT<A_MATRIX>(&owned[i / 4u], PITCH / 4u);
}

fn passing_matrix(i: u32) -> B_MATRIX {
    return coopLoadT<B_MATRIX>(&passing[i / 4u], PITCH / 4u);
}

// The same rows as columns.
fn passing_transposed(i: u32) -> B_MATRIX {
    return coopLoad<B_MATRIX>(&passing[i / 4u], PITCH / 4u);
}

fn weight_matrix(i: u32) -> A_MATRIX {
    return coopLoadT<A_MATRIX>(&weights[i / 4u], W_PITCH / 4u);
}

fn sum_matrix(i: u32, pitch: u32) -> SUM_MATRIX {
    return coopLoadT<SUM_MATRIX>(&sums[i / 4u], pitch / 4u);
}

fn put_sum_matrix(i: u32, pitch: u32, matrix: SUM_MATRIX) {
    let first = i / 4u;
    let stride = pitch / 4u;
    coopStoreT(matrix, &sums[first], stride);
}
