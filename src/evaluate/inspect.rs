//! Looking inside a model: attention weights of every head, the likeliest tokens after every block (logit lens), and the
//! log-probability of every token.
//!
//! The logit lens applies the model's last norm and output projection to the hidden states after each block (nostalgebraist
//! 2020, "interpreting GPT: the logit lens").

use crate::error::Result;
use crate::executor::{Executor, tuned_plan};
use crate::fail;
use crate::graph::{Graph, Shape, Step, Tensor};
use crate::models::network::Network;
use crate::ops::IGNORED;
use crate::ops::best_tokens::BestTokens;
use crate::ops::next_token::seen_words;
use crate::ops::token_log_prob::TokenLogProb;

/// What a block does with a text of T tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// (heads, T, T): how much each token attends to each.
    pub attention: Vec<f32>,
    pub heads: usize,
    /// The likeliest tokens at each position by what is known after this block, best first, with their log-probabilities (nats);
    /// nothing where the model predicts no tokens.
    pub best: Vec<Vec<(u32, f32)>>,
    /// The log-probability (nats) after this block of each next token, or of the token itself in an encoder; 0 where there is none.
    pub log_probs: Vec<f32>,
}

/// The graph that looks at `length` tokens: inputs `ids` and `targets`, both (1, T) u32; outputs for each block n
/// `attention.n` (1, heads, T, T), `best.n` (T, best, 2) and `log_prob.n` (T). Ids from `vocabulary` on are not told.
pub fn inspection_graph(network: &Network, vocabulary: usize, length: usize, best: usize) -> Graph {
    let mut g = Graph::new();
    let model = network.inference();
    let ids = g.input("ids", Shape::u32(&[1, length]));
    let targets = g.input("targets", Shape::u32(&[1, length]));
    let x = model.hidden(&mut g, ids);
    let weights = |(node, op): (usize, _)| {
        let mut inputs = g.nodes()[node].inputs.clone();
        inputs.push(Tensor { node, slot: 1 });
        (op, inputs)
    };
    let attentions = (0..g.nodes().len()).filter_map(|node| Some((node, g.op(node)?.attention_weights()?)));
    let attentions: Vec<_> = attentions.map(weights).collect();
    for (n, (op, inputs)) in attentions.into_iter().enumerate() {
        let weights = g.apply_shared(op, &inputs);
        g.output(&format!("attention.{n}"), weights);
    }
    let config = network.config();
    if config.encoder.is_some() && !config.heads_of_encoder().predicts() {
        return g;
    }
    let mut seen =
        g.state_u32(&format!("{}inspect.{length}.seen", network.prefix()), &[length, seen_words(vocabulary)]);
    let made = g.made_by_regions().to_vec();
    for (n, state) in made.iter().enumerate() {
        let last = made[made.len() - 1];
        let x = if *state == last { x } else { g.repeat(last, x, *state) };
        let logits = model.head(&mut g, x);
        let op = BestTokens { vocabulary, count: best.min(vocabulary), repetition_penalty: 1.0 };
        let likeliest = g.apply(op, &[logits, seen, ids]);
        seen = Tensor { slot: 1, ..likeliest };
        g.output(&format!("best.{n}"), likeliest);
        let log_probs = g.apply(TokenLogProb, &[logits, targets]);
        g.output(&format!("log_prob.{n}"), log_probs);
    }
    g
}

/// Looks at a text with a model whose weights are in the device's store, or will be before this runs.
pub fn inspect(
    executor: &mut dyn Executor,
    network: &Network,
    (vocabulary, best): (usize, usize),
    ids: &[u32],
) -> Result<Vec<Block>> {
    let (context, length) = (network.config().context, ids.len());
    if !(1..=context).contains(&length) {
        fail!(Input, "the text has {length} tokens, and the model looks at 1 to {context}: give another");
    }
    let graph = inspection_graph(network, vocabulary, length, best);
    let plan = tuned_plan(executor, &graph)?;
    let program = executor.load(&graph, plan)?;
    executor.write(program, "ids", bytemuck::cast_slice(ids))?;
    executor.write(program, "targets", bytemuck::cast_slice(&targets(network, ids)))?;
    executor.run(program, 0, &Step::default())?;
    let names: Vec<&str> = graph.outputs().iter().map(|(name, _)| name.as_str()).collect();
    let mut block = |n: usize| {
        let attention = executor.read(program, &format!("attention.{n}"))?;
        let heads = attention.len() / (length * length);
        let (mut likeliest, mut log_probs) = (vec![], vec![]);
        if names.contains(&format!("best.{n}").as_str()) {
            let pairs = executor.read(program, &format!("best.{n}"))?;
            let row = |pairs: &[f32]| pairs.chunks(2).map(|pair| (pair[0].to_bits(), pair[1])).collect();
            likeliest = pairs.chunks(pairs.len() / length).map(row).collect();
            log_probs = executor.read(program, &format!("log_prob.{n}"))?;
        }
        Ok(Block { attention, heads, best: likeliest, log_probs })
    };
    let blocks = (0..network.config().layers).map(&mut block).collect();
    executor.unload(program);
    blocks
}

/// The token whose log-probability is told at each position.
fn targets(network: &Network, ids: &[u32]) -> Vec<u32> {
    match network.config().encoder {
        Some(_) => ids.to_vec(),
        None => ids[1..].iter().copied().chain([IGNORED]).collect(),
    }
}
