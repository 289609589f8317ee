// The causal mask: a query sees the key at its position and those before it, of which a window leaves the last.
// use: causal

// What `sees` needs to know of query `i`.
fn mask_word(entry: u32, i: u32) -> u32 {
    return 0u;
}

// The first key that query `i` and those after it see.
fn first_key(entry: u32, i: u32) -> u32 {
    return causal_first_key(i);
}

// One past the last key that queries before `end` see.
fn keys_end(entry: u32, end: u32) -> u32 {
    return causal_keys_end(end);
}

// The first query that sees key `j` or one after it.
fn first_query(entry: u32, j: u32) -> u32 {
    return causal_first_query(j);
}

// One past the last query that sees a key from `first` to `last`.
fn queries_end(entry: u32, first: u32, last: u32) -> u32 {
    return causal_queries_end(last);
}

fn sees(word: vec4<u32>, i: vec4<u32>, j: vec4<u32>) -> vec4<bool> {
    return causal_sees(i, j);
}
