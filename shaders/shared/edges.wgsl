// Four columns of op(B) at four steps of K, whichever way B is stored. Rows and columns past an edge repeat the last ones,
// so that no load leaves its matrix; they are not stored.
// use: quads

// Columns `n` to `n + 3` of op(B), in steps `k` to `k + 3`, each a column of the result.
fn load_b(k: u32, n: u32) -> mat4x4<f32> {
    var quads: mat4x4<f32>;
    for (var i = 0u; i < 4u; i++) {
        if TB {
            quads[i] = within_k(b_quad(min(n + i, N - 1u) * LDB + B_COLUMN + k), k);
        } else {
            let quad = b_quad(min(k + i, K - 1u) * LDB + B_COLUMN + min(n, (N - 1u) / 4u * 4u));
            quads[i] = select(vec4<f32>(), quad, k + i < K);
        }
    }
    if TB {
        return transpose(quads);
    }
    return quads;
}

// A quad along K from `k`, with zeros past its end.
fn within_k(quad: vec4<f32>, k: u32) -> vec4<f32> {
    if K % 4u == 0u {
        return quad;
    }
    return select(vec4<f32>(), quad, k + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(K));
}
