//! Scores of examples: a program for each length, all on one store.

use super::batch::{Item, LabelledBatch};
use super::head::Head;
use crate::data::buckets::{Buckets, Group, group};
use crate::data::labelled::target::{Answer, Target};
use crate::error::Result;
use crate::evaluate::metrics::Metrics;
use crate::executor::programs::Programs;
use crate::executor::{Executor, Program};
use crate::graph::{Graph, Step};
use crate::models::blocks::Model;
use crate::models::network::Network;
use crate::train::objective::Batch;

/// Scores items by whatever parameters the executor's store holds, with a program for each bucket.
pub fn scores(
    executor: &mut dyn Executor,
    programs: &mut Programs<usize>,
    (network, head, buckets): (&Network, &Head, &Buckets),
    items: &[Item],
) -> Result<Vec<Vec<f32>>> {
    let bucket_of: Vec<usize> = items.iter().map(|item| buckets.of(item.length())).collect();
    let order: Vec<usize> = (0..items.len()).collect();
    let mut scores = vec![vec![]; items.len()];
    let mut batch = Batch::new(head.batch, 0);
    for group in group(&bucket_of, &order, head.batch) {
        let length = buckets.0[group.bucket];
        let program = programs.get(executor, length, || graph(network, head, length))?;
        let members: Vec<&Item> = group.examples.iter().map(|&i| &items[i]).collect();
        batch.clear();
        LabelledBatch::new(head, &members, length).set_inputs(&mut batch);
        batch.write(executor, program)?;
        executor.run(program, 0, &Step::default())?;
        scores_of(executor, program, head, &group, &mut scores)?;
    }
    Ok(scores)
}

/// Reads the scores of a group's examples, which a program has just made, to their places among those of all examples.
pub fn scores_of(
    executor: &mut dyn Executor,
    program: Program,
    head: &Head,
    group: &Group,
    scores: &mut [Vec<f32>],
) -> Result<()> {
    let all = executor.read(program, "scores")?;
    for (&i, row) in group.examples.iter().zip(all.chunks(head.scores_per_example())) {
        scores[i] = row.to_vec();
    }
    Ok(())
}

/// The graph that scores a batch of sequences of one length.
pub fn graph(network: &Network, head: &Head, length: usize) -> Graph {
    let mut g = Graph::new();
    build(&mut g, &network.inference(), head, length);
    g
}

/// Adds the scores of a batch of sequences of one length: output `scores`, of the inputs of [`Head::hidden`] and `positions.N`.
pub fn build(g: &mut Graph, model: &Model, head: &Head, length: usize) {
    let x = head.hidden(g, model, length);
    let scores = head.scores(g, model, x);
    g.output("scores", scores);
}

/// Softmax.
pub fn probabilities(scores: &[f32]) -> Vec<f64> {
    let largest = scores.iter().fold(f32::MIN, |m, s| m.max(*s));
    let exponentials: Vec<f64> = scores.iter().map(|s| f64::from(s - largest).exp()).collect();
    let sum: f64 = exponentials.iter().sum();
    exponentials.iter().map(|e| e / sum).collect()
}

/// The class with the highest score, the first of equals.
pub fn best(scores: &[f32]) -> usize {
    (1..scores.len()).fold(0, |best, i| if scores[i] > scores[best] { i } else { best })
}

/// Metrics and mean loss (nats, or squared grades) of the items that have an answer; none if none has.
pub fn measure(target: &Target, items: &[Item], scores: &[Vec<f32>]) -> Option<(Metrics, f64)> {
    let known = items.iter().zip(scores).filter_map(|(item, scores)| Some((item.answer?, scores)));
    let (answers, scores): (Vec<Answer>, Vec<&Vec<f32>>) = known.unzip();
    if answers.is_empty() {
        return None;
    }
    let mean = |losses: Vec<f64>| losses.iter().sum::<f64>() / losses.len() as f64;
    Some(match target.classes() {
        Some(classes) => {
            let truth: Vec<usize> = answers.iter().map(|answer| answer.class()).collect();
            let predicted: Vec<usize> = scores.iter().map(|scores| best(scores)).collect();
            let loss = truth.iter().zip(&scores).map(|(&class, scores)| -probabilities(scores)[class].ln()).collect();
            (Metrics::of_classes(classes, &truth, &predicted), mean(loss))
        }
        None => {
            let truth: Vec<f64> = answers.iter().map(|answer| f64::from(answer.grade())).collect();
            let predicted: Vec<f64> = scores.iter().map(|scores| f64::from(scores[0])).collect();
            let loss = truth.iter().zip(&predicted).map(|(t, p)| (t - p).powi(2)).collect();
            (Metrics::of_values(&truth, &predicted), mean(loss))
        }
    })
}
