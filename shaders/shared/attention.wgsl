// What the kernels of attention have in common: sizes, which keys and queries belong together, dropout.
//
//   q (B, TQ, C), C = NH * HS;  k, v (B, TK, KVC), KVC = KVH * HS;  head h at columns h * HS of each
// use: step random attention_packed mask_causal bias_none
const ENTRIES: u32 = 1u;
// Batch entries before those of this dispatch.
const B_FIRST: u32 = 0u;
// Lengths of queries and of keys.
const TQ: u32 = 64u;
const TK: u32 = 64u;
const NH: u32 = 1u;
// Heads of keys and values, each for NH / KVH heads of queries.
const KVH: u32 = 1u;
const HS: u32 = 64u;
const WINDOW: u32 = TK;
const DROPOUT: bool = false;
// Of dropout: p * 2^32, and 1 / (1 - p).
const THRESHOLD: u32 = 0u;
const KEEP_SCALE: f32 = 1.0;
const SALT: u32 = 0u;
// Numbers of the bindings that only some plans have: keys and values apart from queries, the words of a mask, a bias.
const KV_BINDING: u32 = 0u;
const WORDS_BINDING: u32 = 0u;
const BIAS_BINDING: u32 = 0u;

// Lengths in vec4: a head, the queries of a position, its keys.
const HV: u32 = HS / 4u;
const CV: u32 = NH * HV;
const KV: u32 = KVH * HV;
// Distances of a key from a query, from TQ - 1 before it to TK - 1 after it.
const DISTANCES: u32 = TQ + TK - 1u;
// What scores are multiplied by.
const SCALE: f32 = 1.0 / sqrt(f32(HS));
// WGSL knows no infinity: low enough that exp is 0. Also the log-sum-exp of a query that sees no key.
const MASKED: f32 = -1e30;
const_assert HS % 4u == 0u && NH % KVH == 0u;

// Element type of q, k, v, y and their gradients.
alias X_TYPE = f32;

// Dropout's factors of four pairs of a query and a key, each given as (row of the query) * TK + key.
fn keep(pair: vec4<u32>, scale: f32) -> vec4<f32> {
    var kept: vec4<f32>;
    for (var n = 0u; n < 4u; n++) {
        kept[n] = keep_factor(pair[n], step.micro_batch, step.seed, SALT, THRESHOLD, scale);
    }
    return kept;
}

// What `sees` needs to know of four queries.
fn mask_words(entry: u32, i: vec4<u32>) -> vec4<u32> {
    return vec4<u32>(mask_word(entry, i.x), mask_word(entry, i.y), mask_word(entry, i.z), mask_word(entry, i.w));
}
