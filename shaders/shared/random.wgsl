// Threefry-2x32 with 20 rounds (Salmon, Moraes, Dror, Shaw 2011): random words from a counter and a key, with no state.
// CPU twin: ops::dropout::threefry.
fn threefry(counter: vec2<u32>, key: vec2<u32>) -> vec2<u32> {
    let k2 = key.x ^ key.y ^ 0x1BD11BDAu;
    var x = counter + key;
    x = threefry_four_rounds(x, vec4<u32>(13u, 15u, 26u, 6u)) + vec2<u32>(key.y, k2 + 1u);
    x = threefry_four_rounds(x, vec4<u32>(17u, 29u, 16u, 24u)) + vec2<u32>(k2, key.x + 2u);
    x = threefry_four_rounds(x, vec4<u32>(13u, 15u, 26u, 6u)) + vec2<u32>(key.x, key.y + 3u);
    x = threefry_four_rounds(x, vec4<u32>(17u, 29u, 16u, 24u)) + vec2<u32>(key.y, k2 + 4u);
    return threefry_four_rounds(x, vec4<u32>(13u, 15u, 26u, 6u)) + vec2<u32>(k2, key.x + 5u);
}

fn threefry_four_rounds(start: vec2<u32>, by: vec4<u32>) -> vec2<u32> {
    var x = start;
    x = threefry_round(x, by.x);
    x = threefry_round(x, by.y);
    x = threefry_round(x, by.z);
    return threefry_round(x, by.w);
}

fn threefry_round(x: vec2<u32>, by: u32) -> vec2<u32> {
    let sum = x.x + x.y;
    return vec2<u32>(sum, ((x.y << by) | (x.y >> (32u - by))) ^ sum);
}

// The factors of dropout with probability `p`, given as a threshold on 32 random bits, of elements 2 `pair` and 2 `pair` + 1:
// 0, or 1 / (1 - p).
fn keep_pair(pair: u32, micro_batch: u32, seed: u32, salt: u32, threshold: u32, scale: f32) -> vec2<f32> {
    let words = threefry(vec2<u32>(pair, micro_batch), vec2<u32>(seed, salt));
    return select(vec2<f32>(scale), vec2<f32>(0.0), words < vec2<u32>(threshold));
}

// That of one element.
fn keep_factor(element: u32, micro_batch: u32, seed: u32, salt: u32, threshold: u32, scale: f32) -> f32 {
    let pair = keep_pair(element / 2u, micro_batch, seed, salt, threshold, scale);
    return select(pair.x, pair.y, element % 2u == 1u);
}
