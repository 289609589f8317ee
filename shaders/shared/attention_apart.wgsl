// Queries in one tensor, keys and values side by side in another: q, and k | v. Lengths in vec4.
const Q_ROW: u32 = CV;
const KV_ROW: u32 = 2u * KV;
// Where the keys of a row begin; its values follow them.
const K_COLUMN: u32 = 0u;

@group(0) @binding(0) var<storage, read> queries: array<vec4<X_TYPE>>;
@group(0) @binding(KV_BINDING) var<storage, read> keys_values: array<vec4<X_TYPE>>;

fn q_quad(i: u32) -> vec4<X_TYPE> {
    return queries[i];
}

fn kv_quad(i: u32) -> vec4<X_TYPE> {
    return keys_values[i];
}
