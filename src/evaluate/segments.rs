//! Losses of a text that passes in segments, by the position in the segment, with a memory of the segments before.

use crate::data::tokens::Tokens;
use crate::error::Result;
use crate::executor::{Executor, tuned_plan};
use crate::fail;
use crate::formats::folder::Weights;
use crate::formats::upload::upload;
use crate::graph::{Graph, Shape, Step};
use crate::models::network::Network;
use crate::ops::IGNORED;

/// Sums of losses, in nats, and the numbers of tokens, for each position in a segment.
#[derive(Clone, Debug, PartialEq)]
pub struct ByPosition {
    pub sums: Vec<f64>,
    pub counts: Vec<u64>,
}

impl ByPosition {
    /// The sum over all positions, and the number of tokens.
    pub fn total(&self) -> (f64, u64) {
        (self.sums.iter().sum(), self.counts.iter().sum())
    }

    /// Mean losses of so many parts of a segment that follow one another, with the first and the last position of each, counted from 1.
    pub fn parts(&self, parts: usize) -> Vec<(usize, usize, f64)> {
        let length = self.sums.len();
        let bounds = (0..parts.min(length))
            .map(|part| (part * length / parts.min(length), (part + 1) * length / parts.min(length)));
        let mean = |(from, to): (usize, usize)| {
            let count: u64 = self.counts[from..to].iter().sum();
            (from + 1, to, self.sums[from..to].iter().sum::<f64>() / count.max(1) as f64)
        };
        bounds.map(mean).collect()
    }
}

/// Scores every token but the first in segments of the context. The text is cut into `rows` streams of whole segments, each of which
/// starts with an empty memory; the last tokens, fewer than a segment, are left out. `done` is told numbers of segments as they are read.
pub fn by_position(
    executor: &mut dyn Executor,
    network: &Network,
    weights: &Weights,
    tokens: &Tokens,
    rows: usize,
    done: &mut dyn FnMut(usize),
) -> Result<ByPosition> {
    let context = network.config().context;
    let segments = (tokens.len().saturating_sub(1)) as usize / context;
    if segments == 0 {
        fail!(
            Input,
            "{} holds {} tokens and a segment of {context} needs {} to predict its last: give more text or a smaller --window",
            tokens.name(),
            tokens.len(),
            context + 1
        );
    }
    let rows = rows.min(segments);
    let longest = segments.div_ceil(rows);
    let mut g = Graph::new();
    let model = network.inference();
    let ids = g.input("ids", Shape::u32(&[rows, context]));
    let x = model.segment(&mut g, ids, 1);
    let targets = g.input("targets", Shape::u32(&[rows, context]));
    let log_probs = model.token_log_probs(&mut g, x, targets);
    g.output("log_probs", log_probs);
    let plan = tuned_plan(executor, &g)?;
    let program = executor.load(&g, plan)?;
    upload(executor, network, weights)?;
    for (name, dims) in network.config().memories(rows, false) {
        executor.write_state(&name, &vec![0.0; dims.iter().product()])?;
    }
    let mut found = ByPosition { sums: vec![0.0; context], counts: vec![0; context] };
    let mut window = vec![0; context + 1];
    for number in 0..longest {
        let (mut ids, mut targets, mut read) = (vec![], vec![], 0);
        for row in 0..rows {
            let segment = row * segments / rows + number;
            if segment < (row + 1) * segments / rows {
                tokens.read((segment * context) as u64, &mut window)?;
                ids.extend_from_slice(&window[..context]);
                targets.extend_from_slice(&window[1..]);
                found.counts.iter_mut().for_each(|count| *count += 1);
                read += 1;
            } else {
                ids.resize(ids.len() + context, 0);
                targets.resize(targets.len() + context, IGNORED);
            }
        }
        executor.write(program, "ids", bytemuck::cast_slice(&ids))?;
        executor.write(program, "targets", bytemuck::cast_slice(&targets))?;
        executor.run(program, 0, &Step::default())?;
        for (i, log_prob) in executor.read(program, "log_probs")?.iter().enumerate() {
            // Those of ignored targets are 0.
            found.sums[i % context] -= f64::from(*log_prob);
        }
        done(read);
    }
    executor.unload(program);
    Ok(found)
}
