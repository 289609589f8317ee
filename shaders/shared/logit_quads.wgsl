// Four logits of a row that stand together, read and written at once: V is a multiple of four.

// Element type of the logits.
alias X_TYPE = f32;

@group(0) @binding(0) var<storage, read_write> logits: array<vec4<X_TYPE>>;

fn first_quad(thread: u32) -> u32 {
    return 4u * thread;
}

fn columns(i: u32) -> vec4<u32> {
    return i + vec4<u32>(0u, 1u, 2u, 3u);
}

fn quad(row: u32, i: u32) -> vec4<f32> {
    return vec4<f32>(logits[(row * V + i) / 4u]);
}

fn store_quad(row: u32, i: u32, value: vec4<f32>) {
    logits[(row * V + i) / 4u] = vec4<X_TYPE>(value);
}

fn logit(row: u32, column: u32) -> f32 {
    let i = row * V + column;
    return f32(logits[i / 4u][i % 4u]);
}
