// The mask of rows that documents are packed in: causal, and a query sees no key before its document.
// use: causal
@group(0) @binding(WORDS_BINDING) var<storage, read> starts: array<u32>; // (B, TQ): first key of each query's document

// What `sees` needs to know of query `i`.
fn mask_word(entry: u32, i: u32) -> u32 {
    return starts[entry * TQ + min(i, TQ - 1u)];
}

// The first key that query `i` and those after it see.
fn first_key(entry: u32, i: u32) -> u32 {
    return max(causal_first_key(i), mask_word(entry, i));
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
    // Starts never decrease: the first query whose document starts after `last` is found by halving.
    var low = min(causal_first_query(last), TQ);
    var high = max(causal_queries_end(last), low);
    while low < high {
        let middle = (low + high) / 2u;
        if mask_word(entry, middle) > last {
            high = middle;
        } else {
            low = middle + 1u;
        }
    }
    return low;
}

fn sees(word: vec4<u32>, i: vec4<u32>, j: vec4<u32>) -> vec4<bool> {
    return causal_sees(i, j) & (word <= j);
}
