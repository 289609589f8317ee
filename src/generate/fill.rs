//! Masked tokens of an encoder: the most likely ones at each [MASK] of a text (Devlin et al. 2019).

use std::collections::BTreeMap;

use super::Token;
use crate::error::Result;
use crate::executor::Executor;
use crate::executor::programs::Programs;
use crate::formats::folder::Weights;
use crate::formats::upload::upload;
use crate::graph::{Graph, Shape, Step};
use crate::models::network::Network;
use crate::ops::IGNORED;
use crate::ops::gather_rows::GatherRows;

/// Texts at once.
const MOST_ROWS: usize = 32;

/// An encoder on a device that fills in masked tokens.
pub struct Filler<'a> {
    executor: &'a mut dyn Executor,
    network: &'a Network,
    weights: &'a Weights,
    /// By rows, length and masked positions.
    programs: Programs<(usize, usize, usize)>,
}

impl<'a> Filler<'a> {
    pub fn new(executor: &'a mut dyn Executor, network: &'a Network, weights: &'a Weights) -> Self {
        Filler { executor, network, weights, programs: Programs::default() }
    }

    /// Of each text the `top` most likely tokens below `vocabulary` at each of its `mask` tokens, the likeliest first, in the order
    /// of the texts and the masks. A text has at most as many tokens as the model's context.
    pub fn fill(
        &mut self,
        texts: &[Vec<u32>],
        mask: u32,
        (top, vocabulary): (usize, usize),
    ) -> Result<Vec<Vec<Vec<Token>>>> {
        let context = self.network.config().context;
        let mut classes: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (at, ids) in texts.iter().enumerate() {
            assert!(ids.len() <= context, "{} tokens are more than a context of {context}", ids.len());
            classes.entry(ids.len().next_power_of_two().max(16).min(context)).or_default().push(at);
        }
        let mut filled = vec![vec![]; texts.len()];
        for (time, members) in classes {
            for chunk in members.chunks(MOST_ROWS) {
                let rows: Vec<&[u32]> = chunk.iter().map(|at| &texts[*at][..]).collect();
                let logits = self.logits(&rows, mask, time)?;
                let mut logits = logits.chunks(self.network.config().vocab_size);
                for (at, ids) in chunk.iter().zip(rows) {
                    let masks = ids.iter().filter(|id| **id == mask).count();
                    filled[*at] = logits.by_ref().take(masks).map(|row| likeliest(row, top, vocabulary)).collect();
                }
            }
        }
        Ok(filled)
    }

    /// Logits (masks, V) of all masked positions of some texts, padded to a length; rows beyond those are padding.
    fn logits(&mut self, texts: &[&[u32]], mask: u32, time: usize) -> Result<Vec<f32>> {
        let batch = texts.len().next_power_of_two();
        let (mut ids, mut lengths, mut positions) = (vec![0; batch * time], vec![1; batch], vec![]);
        for (row, text) in texts.iter().enumerate() {
            ids[row * time..][..text.len()].copy_from_slice(text);
            lengths[row] = text.len() as u32;
            let masked = (0..text.len()).filter(|at| text[*at] == mask);
            positions.extend(masked.map(|at| (row * time + at) as u32));
        }
        positions.resize(positions.len().max(1).next_power_of_two(), IGNORED);
        let (key, is_first) = ((batch, time, positions.len()), self.programs.is_empty());
        let program = self.programs.get(self.executor, key, || graph(self.network, key))?;
        if is_first {
            upload(self.executor, self.network, self.weights)?;
        }
        self.executor.write(program, "ids", bytemuck::cast_slice(&ids))?;
        self.executor.write(program, "lengths", bytemuck::cast_slice(&lengths))?;
        self.executor.write(program, "positions", bytemuck::cast_slice(&positions))?;
        self.executor.run(program, 0, &Step::default())?;
        self.executor.read(program, "logits")
    }
}

impl Drop for Filler<'_> {
    /// Frees the programs' buffers and pipelines; the device stays usable.
    fn drop(&mut self) {
        self.programs.unload(self.executor);
    }
}

/// The graph of the logits at `masks` positions of padded texts (B, T): output `logits` (masks, V), of inputs `ids` (B, T), `lengths`
/// (B) and `positions` (masks), counted over all texts.
pub fn graph(network: &Network, (batch, time, masks): (usize, usize, usize)) -> Graph {
    let mut g = Graph::new();
    let model = network.inference();
    let ids = g.input("ids", Shape::u32(&[batch, time]));
    let lengths = g.input("lengths", Shape::u32(&[batch]));
    let positions = g.input("positions", Shape::u32(&[masks]));
    let x = model.encoded(&mut g, ids, None, Some(lengths)); // (B, T, C)
    let x = g.apply(GatherRows, &[x, positions]); // (masks, C)
    let logits = model.head(&mut g, x);
    g.output("logits", logits);
    g
}

/// The `top` likeliest of the first `vocabulary` tokens, with the log of the softmax over all.
fn likeliest(logits: &[f32], top: usize, vocabulary: usize) -> Vec<Token> {
    let largest = logits.iter().fold(f32::MIN, |m, logit| m.max(*logit));
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - largest).exp()).sum();
    let lse = f64::from(largest) + sum.ln();
    let mut ids: Vec<u32> = (0..vocabulary.min(logits.len()) as u32).collect();
    ids.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
    let token = |id: u32| Token { id, log_probability: (f64::from(logits[id as usize]) - lse) as f32 };
    ids.into_iter().take(top).map(token).collect()
}
