// Scales of blocks of 32 elements of B, two f16 in a word.
const SCALES_BINDING: u32 = 0u;

@group(0) @binding(SCALES_BINDING) var<storage, read> scales: array<u32>;

// The scale of the block that element `i` is in.
fn block_scale(i: u32) -> f32 {
    let pair = unpack2x16float(scales[i / 64u]);
    return select(pair.x, pair.y, (i & 32u) != 0u);
}
