// Which keys a query sees: its own and those before it, the last WINDOW of all. No window is one of T.

// The first key that query `i` sees.
fn first_key(i: u32) -> u32 {
    if WINDOW < T {
        return i + 1u - min(i + 1u, WINDOW);
    }
    return 0u;
}

// One past the last query that sees key `j`.
fn queries_end(j: u32) -> u32 {
    if WINDOW < T {
        return min(j + WINDOW, T);
    }
    return T;
}

fn sees(i: vec4<u32>, j: vec4<u32>) -> vec4<bool> {
    if WINDOW < T {
        return (j <= i) & (i < j + WINDOW);
    }
    return j <= i;
}
