// Queries, keys and values of a position side by side in one tensor: q | k | v. Lengths in vec4.
const Q_ROW: u32 = CV + 2u * KV;
const KV_ROW: u32 = Q_ROW;
// Where the keys of a row begin; its values follow them.
const K_COLUMN: u32 = CV;

@group(0) @binding(0) var<storage, read> qkv: array<vec4<X_TYPE>>;

fn q_quad(i: u32) -> vec4<X_TYPE> {
    return qkv[i];
}

fn kv_quad(i: u32) -> vec4<X_TYPE> {
    return qkv[i];
}
