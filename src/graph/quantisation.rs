//! Quantised matrices: weights in fewer bits than f32, which products dequantise as they read them.
//!
//!   words (rows, columns * bits / 32), u32;  scales (ceil(rows * columns / 64)), u32, two f16 in each
//!
//! f16: two halves in a word. q8_0 and q4_0: blocks of 32 values of a row share a scale d, with the values that llama.cpp gives
//! them (ggml-quants.c): q8_0 has d = max |x| / 127 and q = round(x / d); q4_0 has d = (the x of the largest magnitude) / -8 and
//! q = min(15, floor(x / d + 8.5)), of which x is (q - 8) d. On a device the values of a word follow each other from its lowest bits up.

use half::f16;
use serde::{Deserialize, Serialize};

/// How a matrix is quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Quantisation {
    #[value(name = "f16")]
    F16,
    /// 8.5 bits per value.
    #[value(name = "q8_0")]
    Q8_0,
    /// 4.5 bits per value.
    #[value(name = "q4_0")]
    Q4_0,
}

/// Values that share a scale.
pub const BLOCK: usize = 32;
/// Largest magnitude of a value in q8_0.
pub const Q8_MOST: f32 = 127.0;

/// How a parameter is quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuantisedAs {
    pub quantisation: Quantisation,
    /// Whether it is quantised as its transpose: blocks lie along the inputs of a layer, which GPT-2 stores as (inputs, outputs).
    pub transposed: bool,
}

impl QuantisedAs {
    /// Rows and columns of a matrix as it is quantised.
    pub fn sizes(self, dims: &[usize]) -> (usize, usize) {
        if self.transposed { (dims[1], dims[0]) } else { (dims[0], dims[1]) }
    }

    /// The values of a matrix as it is quantised; `dims` are its own.
    pub fn quantise(self, values: &[f32], dims: &[usize]) -> Quantised {
        if !self.transposed {
            return self.quantisation.quantise(values);
        }
        let (rows, columns) = self.sizes(dims);
        let turned: Vec<f32> = (0..rows * columns).map(|i| values[i % columns * rows + i / columns]).collect();
        self.quantisation.quantise(&turned)
    }
}

/// The name of the state of a quantised parameter's scales.
pub fn scales_name(parameter: &str) -> String {
    format!("{parameter}.scales")
}

/// A quantised matrix.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Quantised {
    pub words: Vec<u32>,
    /// None for f16.
    pub scales: Vec<u32>,
}

impl Quantisation {
    /// Values in a word.
    pub fn per_word(self) -> usize {
        match self {
            Quantisation::F16 => 2,
            Quantisation::Q8_0 => 4,
            Quantisation::Q4_0 => 8,
        }
    }

    /// Whether blocks have scales.
    pub fn has_scales(self) -> bool {
        self != Quantisation::F16
    }

    /// Words of the scales of so many values.
    pub fn scale_words(self, values: usize) -> usize {
        if self.has_scales() { (values / BLOCK).div_ceil(2) } else { 0 }
    }

    /// Whether a matrix can be quantised: rows of whole blocks, and quads of rows.
    pub fn fits(self, rows: usize, columns: usize) -> bool {
        let block = if self.has_scales() { BLOCK } else { 4 };
        rows.is_multiple_of(4) && columns.is_multiple_of(block)
    }

    /// Quantises values, of which rows have whole blocks.
    pub fn quantise(self, values: &[f32]) -> Quantised {
        let mut quantised = Quantised::default();
        let mut scales = vec![];
        match self {
            Quantisation::F16 => {
                let pair = |pair: &[f32]| pair_word(f16::from_f32(pair[0]), f16::from_f32(pair[1]));
                quantised.words = values.chunks(2).map(pair).collect();
            }
            Quantisation::Q8_0 => {
                for block in values.as_chunks::<BLOCK>().0 {
                    let (scale, quants) = q8_block(block);
                    scales.push(scale);
                    quantised.words.extend(
                        quants.as_chunks::<4>().0.iter().map(|q| i32::from_le_bytes(q.map(|q| q as u8)) as u32),
                    );
                }
            }
            Quantisation::Q4_0 => {
                for block in values.as_chunks::<BLOCK>().0 {
                    let (scale, quants) = q4_block(block);
                    scales.push(scale);
                    let word =
                        |q: &[u8; 8]| q.iter().enumerate().fold(0, |word, (i, q)| word | u32::from(*q) << (4 * i));
                    quantised.words.extend(quants.as_chunks::<8>().0.iter().map(word));
                }
            }
        }
        quantised.scales =
            scales.chunks(2).map(|pair| pair_word(pair[0], pair.get(1).copied().unwrap_or(f16::ZERO))).collect();
        quantised
    }

    /// The values of a quantised matrix.
    pub fn dequantise(self, words: &[u32], scales: &[u32]) -> Vec<f32> {
        let half = |word: u32, high: bool| f16::from_bits((if high { word >> 16 } else { word }) as u16).to_f32();
        let scale = |value: usize| half(scales[value / 64], value & BLOCK != 0);
        let per_word = self.per_word();
        let one = |value: usize| {
            let (word, place) = (words[value / per_word], value % per_word);
            match self {
                Quantisation::F16 => half(word, place == 1),
                Quantisation::Q8_0 => scale(value) * f32::from((word >> (8 * place)) as u8 as i8),
                Quantisation::Q4_0 => scale(value) * (f32::from((word >> (4 * place)) as u8 & 15) - 8.0),
            }
        };
        (0..words.len() * per_word).map(one).collect()
    }
}

fn pair_word(low: f16, high: f16) -> u32 {
    u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16
}

/// Scale and values of a block of q8_0.
pub fn q8_block(values: &[f32; BLOCK]) -> (f16, [i8; BLOCK]) {
    let scale = values.iter().fold(0.0f32, |most, value| most.max(value.abs())) / Q8_MOST;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    (f16::from_f32(scale), values.map(|value| (value * inverse).round() as i8))
}

/// Scale and values, from 0 to 15, of a block of q4_0.
pub fn q4_block(values: &[f32; BLOCK]) -> (f16, [u8; BLOCK]) {
    let most = values.iter().fold(0.0f32, |most, value| if value.abs() > most.abs() { *value } else { most });
    let scale = most / -8.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    (f16::from_f32(scale), values.map(|value| ((value * inverse + 8.5) as i8).min(15) as u8))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 % 1009) as f32 / 504.5 - 1.0) * 1.5f32.powi((i / 64) as i32 % 5 - 2)).collect()
    }

    #[test]
    fn a_quantised_value_is_off_by_at_most_half_a_step_and_quantising_again_changes_nothing() {
        for (quantisation, step) in
            [(Quantisation::F16, 1.0 / 1024.0), (Quantisation::Q8_0, 1.0 / 127.0), (Quantisation::Q4_0, 1.0 / 8.0)]
        {
            let values = values(256);
            let Quantised { words, scales } = quantisation.quantise(&values);
            assert_eq!(words.len(), 256 / quantisation.per_word());
            assert_eq!(scales.len(), quantisation.scale_words(256));
            let got = quantisation.dequantise(&words, &scales);
            for (block, got) in values.chunks(BLOCK).zip(got.chunks(BLOCK)) {
                let most = block.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                // Half a step, and the rounding of the scale to f16; q4_0 has no +8, whose value is a step off at most.
                let bound = if quantisation == Quantisation::Q4_0 { most * step * 1.001 } else { most * step * 0.56 };
                block
                    .iter()
                    .zip(got)
                    .for_each(|(v, g)| assert!((v - g).abs() <= bound, "{quantisation:?}: {v} is {g}"));
            }
            assert_eq!(quantisation.quantise(&got), Quantised { words, scales }, "{quantisation:?}");
        }
    }

    /// By hand from ggml-quants.c's formulas.
    #[test]
    fn blocks_are_those_of_llama_cpp() {
        let mut block = [0.0f32; BLOCK];
        (block[0], block[1], block[31]) = (-4.0, 3.0, 1.0);
        let (scale, quants) = q4_block(&block);
        assert_eq!((scale.to_f32(), quants[0], quants[1], quants[2], quants[31]), (0.5, 0, 14, 8, 10));
        let (scale, quants) = q8_block(&block);
        assert_eq!(scale, f16::from_f32(4.0 / 127.0));
        assert_eq!((quants[0], quants[1], quants[2], quants[31]), (-127, 95, 0, 32));
        assert_eq!(q4_block(&[0.0; BLOCK]), (f16::ZERO, [8; BLOCK]));
    }
}
