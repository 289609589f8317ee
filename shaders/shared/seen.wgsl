// Repetition penalty (Keskar et al. 2019, section 4.1, as transformers applies it): tokens that a row has seen become less
// likely. A bit per token and row; the token that has just been fed has none yet.
@group(0) @binding(1) var<storage, read_write> seen: array<u32>; // (B, WORDS)

fn penalised(row: u32, i: u32, fed: u32, x: f32, penalty: f32) -> f32 {
    if penalty == 1.0 {
        return x;
    }
    let known = i == fed || ((seen[row * WORDS + i / 32u] >> (i % 32u)) & 1u) == 1u;
    return select(x, select(x / penalty, x * penalty, x < 0.0), known);
}

fn remember(row: u32, fed: u32) {
    seen[row * WORDS + fed / 32u] |= 1u << (fed % 32u);
}
