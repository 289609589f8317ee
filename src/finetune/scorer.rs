//! Scores of examples: a program for each length, all on one store.

use super::batches::{Batch, Buckets, Item, group};
use super::head::Head;
use super::metrics::Metrics;
use super::task::{Answer, Target};
use crate::error::Result;
use crate::executor::{Executor, Program, tuned_plan};
use crate::graph::{Graph, Shape, Step};
use crate::models::config::Config;
use crate::models::model::Model;

/// A model with a head, ready to score batches.
pub struct Scorer {
    head: Head,
    buckets: Buckets,
    programs: Vec<Program>,
}

impl Scorer {
    /// Loads a program for each bucket. Parameters are whatever the executor's store holds when scores are asked for.
    pub fn load(executor: &mut dyn Executor, config: &Config, head: &Head, buckets: &Buckets) -> Result<Scorer> {
        let mut programs = vec![];
        for &length in &buckets.0 {
            let g = graph(config, head, length);
            let plan = tuned_plan(executor, &g)?;
            programs.push(executor.load(&g, plan)?);
        }
        Ok(Scorer { head: head.clone(), buckets: buckets.clone(), programs })
    }

    /// Frees its programs.
    pub fn unload(&self, executor: &mut dyn Executor) {
        self.programs.iter().for_each(|program| executor.unload(*program));
    }

    /// For each item, a score for each class, or its grade.
    pub fn scores(&self, executor: &mut dyn Executor, items: &[Item]) -> Result<Vec<Vec<f32>>> {
        let buckets: Vec<usize> = items.iter().map(|item| self.buckets.of(item.length())).collect();
        let order: Vec<usize> = (0..items.len()).collect();
        let mut scores = vec![vec![]; items.len()];
        for group in group(&buckets, &order, self.head.batch) {
            let (program, length) = (self.programs[group.bucket], self.buckets.0[group.bucket]);
            let members: Vec<&Item> = group.examples.iter().map(|&i| &items[i]).collect();
            let batch = Batch::new(self.head.task, &members, self.head.batch, length);
            executor.write(program, "ids", bytemuck::cast_slice(&batch.ids))?;
            for (order, positions) in batch.positions.iter().enumerate() {
                executor.write(program, &format!("positions.{order}"), bytemuck::cast_slice(positions))?;
            }
            executor.run(program, 0, &Step::default())?;
            let all = executor.read(program, "scores")?;
            for (&i, row) in group.examples.iter().zip(all.chunks(self.head.scores_per_example())) {
                scores[i] = row.to_vec();
            }
        }
        Ok(scores)
    }
}

/// The graph that scores a batch of sequences of one length.
pub fn graph(config: &Config, head: &Head, length: usize) -> Graph {
    let mut g = Graph::new();
    let ids = g.input("ids", Shape::u32(&[head.batch * head.sequences(), length]));
    let x = Model { config, training: false, mixed: false }.hidden(&mut g, ids);
    let scores = head.scores(&mut g, x, false);
    g.output("scores", scores);
    g
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
