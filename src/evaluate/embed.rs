//! Embeddings of texts: the hidden states of a model's last block, one vector for each text (Reimers and Gurevych 2019,
//! "Sentence-BERT", section 3).

use crate::data::buckets::{Buckets, group};
use crate::error::Result;
use crate::executor::Executor;
use crate::executor::programs::Programs;
use crate::formats::folder::Weights;
use crate::formats::upload::upload;
use crate::graph::{Graph, Shape, Step};
use crate::models::network::Network;

/// Lengths that texts are padded to, at most.
const LENGTHS: usize = 4;

/// How the hidden states of a text become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Pooling {
    /// The mean over all tokens.
    Mean,
    /// The first token's, [CLS].
    Cls,
}

/// The vectors (C) of texts of at most the model's context, in their order; `batch` texts run at once.
pub fn embed(
    executor: &mut dyn Executor,
    (network, weights): (&Network, &Weights),
    texts: &[Vec<u32>],
    (pooling, batch): (Pooling, usize),
) -> Result<Vec<Vec<f32>>> {
    let (context, c) = (network.config().context, network.config().width);
    let batch = batch.min(texts.len()).max(1);
    let buckets = Buckets::fit(texts.iter().map(Vec::len), LENGTHS, context);
    let bucket_of: Vec<usize> = texts.iter().map(|ids| buckets.of(ids.len())).collect();
    let order: Vec<usize> = (0..texts.len()).collect();
    let mut programs: Programs<usize> = Programs::default();
    let mut embeddings = vec![vec![]; texts.len()];
    for group in group(&bucket_of, &order, batch) {
        let (length, is_first) = (buckets.0[group.bucket], programs.is_empty());
        let program = programs.get(executor, length, || graph(network, batch, length))?;
        if is_first {
            upload(executor, network, weights)?;
        }
        let (mut ids, mut lengths) = (vec![0; batch * length], vec![1; batch]);
        for (row, text) in group.examples.iter().map(|at| &texts[*at]).enumerate() {
            ids[row * length..][..text.len()].copy_from_slice(text);
            lengths[row] = text.len() as u32;
        }
        executor.write(program, "ids", bytemuck::cast_slice(&ids))?;
        if network.config().encoder.is_some() {
            executor.write(program, "lengths", bytemuck::cast_slice(&lengths))?;
        }
        executor.run(program, 0, &Step::default())?;
        let states = executor.read(program, "states")?;
        for (at, states) in group.examples.iter().zip(states.chunks(length * c)) {
            let tokens = if pooling == Pooling::Mean { texts[*at].len() } else { 1 };
            embeddings[*at] = mean(&states[..tokens * c], c);
        }
    }
    programs.unload(executor);
    Ok(embeddings)
}

/// The graph of the hidden states of padded texts (B, T): output `states` (B, T, C), of inputs `ids` (B, T) and, of an encoder,
/// `lengths` (B).
fn graph(network: &Network, batch: usize, length: usize) -> Graph {
    let mut g = Graph::new();
    let model = network.inference();
    let ids = g.input("ids", Shape::u32(&[batch, length]));
    let states = match network.config().encoder {
        Some(_) => {
            let lengths = g.input("lengths", Shape::u32(&[batch]));
            model.encoded(&mut g, ids, None, Some(lengths))
        }
        None => model.hidden(&mut g, ids),
    };
    g.output("states", states);
    g
}

/// The mean of rows of `c` numbers.
fn mean(rows: &[f32], c: usize) -> Vec<f32> {
    let mut sums = vec![0.0f64; c];
    for row in rows.chunks(c) {
        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
    }
    let count = (rows.len() / c) as f64;
    sums.into_iter().map(|sum| (sum / count) as f32).collect()
}

/// The cosine of the angle between two vectors; 0 where one has no length.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths > 0.0 { dot(a, b) / lengths } else { 0.0 }
}
