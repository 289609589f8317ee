//! Blocks of quantised values, byte by byte as GGUF files have them.
//!
//! Source: ggml-common.h and ggml-quants.c of <https://github.com/ggml-org/ggml>.

use half::f16;

use crate::graph::quantisation::{BLOCK, q4_block, q8_block};

/// Values of a block of q8_0, and its bytes: the scale as f16, then a signed byte for each.
pub const Q8_0: usize = BLOCK;
pub const Q8_0_BYTES: usize = 2 + BLOCK;
/// Values of a block of q4_0, and its bytes: the scale as f16, then 4 bits for each: values i and 16 + i share a byte.
pub const Q4_0: usize = BLOCK;
pub const Q4_0_BYTES: usize = 2 + BLOCK / 2;
/// Values of a block of q6_K, and its bytes: the lower 4 bits of each value, the upper 2, a signed scale for every 16, and
/// the scale of these as f16. `llama-quantize` stores the output projection so in files of other types.
pub const Q6_K: usize = 256;
pub const Q6_K_BYTES: usize = Q6_K / 2 + Q6_K / 4 + Q6_K / 16 + 2;

fn half(bytes: [u8; 2]) -> f32 {
    f16::from_le_bytes(bytes).to_f32()
}

pub fn q8_0_bytes(values: &[f32; Q8_0]) -> [u8; Q8_0_BYTES] {
    let (scale, quants) = q8_block(values);
    let mut block = [0; Q8_0_BYTES];
    block[..2].copy_from_slice(&scale.to_le_bytes());
    block[2..].copy_from_slice(bytemuck::cast_slice(&quants));
    block
}

pub fn q8_0_values(block: &[u8; Q8_0_BYTES]) -> [f32; Q8_0] {
    let scale = half([block[0], block[1]]);
    std::array::from_fn(|i| scale * f32::from(block[2 + i] as i8))
}

pub fn q4_0_bytes(values: &[f32; Q4_0]) -> [u8; Q4_0_BYTES] {
    let (scale, quants) = q4_block(values);
    let mut block = [0; Q4_0_BYTES];
    block[..2].copy_from_slice(&scale.to_le_bytes());
    for i in 0..Q4_0 / 2 {
        block[2 + i] = quants[i] | quants[Q4_0 / 2 + i] << 4;
    }
    block
}

pub fn q4_0_values(block: &[u8; Q4_0_BYTES]) -> [f32; Q4_0] {
    let scale = half([block[0], block[1]]);
    let bits = |i: usize| if i < Q4_0 / 2 { block[2 + i] & 15 } else { block[2 + i - Q4_0 / 2] >> 4 };
    std::array::from_fn(|i| scale * (f32::from(bits(i)) - 8.0))
}

pub fn q6_k_values(block: &[u8; Q6_K_BYTES]) -> [f32; Q6_K] {
    let (low, rest) = block.split_at(Q6_K / 2);
    let (high, rest) = rest.split_at(Q6_K / 4);
    let (scales, scale) = rest.split_at(Q6_K / 16);
    let scale = half([scale[0], scale[1]]);
    std::array::from_fn(|i| {
        // Each half of the block has four quarters of 32: two share bytes of `low`, all four those of `high`.
        let (part, quarter, place) = (i / 128, i % 128 / 32, i % 32);
        let low = low[64 * part + 32 * (quarter % 2) + place] >> (4 * (quarter / 2)) & 15;
        let high = high[32 * part + place] >> (2 * quarter) & 3;
        let value = f32::from(low | high << 4) - 32.0;
        scale * f32::from(scales[i / 16] as i8) * value
    })
}
