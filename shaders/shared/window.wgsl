// Where a window begins: a query sees its own key and those before it, the last WINDOW of all. No window is one of T.

// The first key that query `i` sees.
fn first_key(i: u32) -> u32 {
    if WINDOW < T {
        return i + 1u - min(i + 1u, WINDOW);
    }
    return 0u;
}
