// Which keys a query sees in causal attention: its own and those before it, the last WINDOW of all. The last query stands at the
// last key, whatever their numbers. No window is one of TK.

// Keys before the first query, and queries before the first key.
const AHEAD: u32 = max(TK, TQ) - TQ;
const BEHIND: u32 = max(TQ, TK) - TK;

// One past the last key that queries before `end` see.
fn causal_keys_end(end: u32) -> u32 {
    return min(end + AHEAD - min(end, BEHIND), TK);
}

// The first key that query `i` sees.
fn causal_first_key(i: u32) -> u32 {
    if WINDOW < TK {
        let end = i + 1u + AHEAD - min(i + 1u, BEHIND);
        return end - min(end, WINDOW);
    }
    return 0u;
}

// The first query that sees key `j`.
fn causal_first_query(j: u32) -> u32 {
    return max(j + BEHIND, AHEAD) - AHEAD;
}

// One past the last query that sees key `j`.
fn causal_queries_end(j: u32) -> u32 {
    if WINDOW < TK {
        return min(max(j + BEHIND + WINDOW, AHEAD) - AHEAD, TQ);
    }
    return TQ;
}

fn causal_sees(i: vec4<u32>, j: vec4<u32>) -> vec4<bool> {
    let own = i + vec4<u32>(AHEAD);
    let key = j + vec4<u32>(BEHIND);
    if WINDOW < TK {
        return (key <= own) & (own < key + WINDOW);
    }
    return key <= own;
}
