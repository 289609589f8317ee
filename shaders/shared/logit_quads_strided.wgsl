// Four logits of a row of any length, THREADS apart, so that neighbouring threads read neighbouring words. Past the end of
// the row they count for nothing, and nothing is written.

// Element type of the logits.
alias X_TYPE = f32;

@group(0) @binding(0) var<storage, read_write> logits: array<X_TYPE>;

fn first_quad(thread: u32) -> u32 {
    return thread;
}

fn columns(i: u32) -> vec4<u32> {
    return i + THREADS * vec4<u32>(0u, 1u, 2u, 3u);
}

fn quad(row: u32, i: u32) -> vec4<f32> {
    let at = columns(i);
    let inside = min(at, vec4<u32>(V - 1u)) + row * V;
    let x = vec4<f32>(vec4<X_TYPE>(logits[inside.x], logits[inside.y], logits[inside.z], logits[inside.w]));
    return select(vec4<f32>(-1e30), x, at < vec4<u32>(V));
}

fn store_quad(row: u32, i: u32, value: vec4<f32>) {
    let at = columns(i);
    for (var k = 0u; k < 4u; k++) {
        if at[k] < V {
            logits[row * V + at[k]] = X_TYPE(value[k]);
        }
    }
}

fn logit(row: u32, column: u32) -> f32 {
    return f32(logits[row * V + column]);
}
