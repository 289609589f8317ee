//! Multiple choice without fine-tuning: the choice that the model finds most likely after the context, as for HellaSwag
//! (Zellers et al. 2019) and the Story Cloze Test (Mostafazadeh et al. 2016).

use serde::Serialize;

use super::Accuracy;
use super::prompt::{Prompter, Shots};
use super::scorer::Scorer;
use crate::data::labelled::Example;
use crate::error::{Error, Result};

/// The model's scores of one example.
#[derive(Clone, Debug, Serialize)]
pub struct Chosen {
    /// The example's line in its file; 0 if it has none.
    pub line: usize,
    /// The right choice, counted from 0, as all numbers of choices.
    pub right: usize,
    /// Of each choice after the context, in nats.
    pub log_likelihoods: Vec<f64>,
    /// The choice with the highest log-likelihood.
    pub predicted: usize,
    /// The same per character of the choice, and per byte.
    pub predicted_per_character: usize,
    pub predicted_per_byte: usize,
}

/// Shares of examples whose right choice was predicted.
#[derive(Clone, Copy, Debug)]
pub struct Accuracies {
    pub summed: Accuracy,
    /// lm-evaluation-harness calls it `acc_norm`.
    pub per_character: Accuracy,
    /// lm-evaluation-harness calls it `acc_bytes`.
    pub per_byte: Accuracy,
}

impl Accuracies {
    /// Of at least one example.
    pub fn of(chosen: &[Chosen]) -> Accuracies {
        let share = |predicted: fn(&Chosen) -> usize| Accuracy::of(chosen.iter().map(|c| predicted(c) == c.right));
        Accuracies {
            summed: share(|chosen| chosen.predicted),
            per_character: share(|chosen| chosen.predicted_per_character),
            per_byte: share(|chosen| chosen.predicted_per_byte),
        }
    }
}

/// Scores every choice of every example. Errors name an example by its line in `place`.
pub fn choose(
    scorer: &mut Scorer,
    prompter: &mut Prompter,
    (examples, place): (&[Example], &str),
    shots: &Shots,
    done: &mut dyn FnMut(usize),
) -> Result<Vec<Chosen>> {
    let mut requests = vec![];
    for (question, example) in examples.iter().enumerate() {
        let solved = |shot: &Example| format!("{} {}", context(shot), shot.choices[right(shot)]);
        let context = shots.text(question, solved) + &context(example);
        for (number, choice) in examples[question].choices.iter().enumerate() {
            let request = prompter.request(&context, &format!(" {choice}")).map_err(|why| {
                Error::Input(format!("choice {} in line {} of {place}: {why}", number + 1, example.line))
            })?;
            requests.push(request);
        }
    }
    let scores = scorer.score(&requests, done)?;
    let mut scores = scores.iter().map(|score| score.log_probability);
    let chosen = examples.iter().map(|example| {
        let log_likelihoods: Vec<f64> = scores.by_ref().take(example.choices.len()).collect();
        let per = |length: fn(&str) -> usize| {
            let all = log_likelihoods.iter().zip(&example.choices);
            first_largest(all.map(|(sum, choice)| sum / length(choice) as f64))
        };
        Chosen {
            line: example.line,
            right: right(example),
            predicted: per(|_| 1),
            predicted_per_character: per(|choice| choice.chars().count()),
            predicted_per_byte: per(str::len),
            log_likelihoods,
        }
    });
    Ok(chosen.collect())
}

/// Context, and question if there is one.
fn context(example: &Example) -> String {
    example.texts.join(" ")
}

fn right(example: &Example) -> usize {
    example.right().expect("an example that was read with its label")
}

fn first_largest(values: impl Iterator<Item = f64>) -> usize {
    let best = values.enumerate().fold((0, f64::NEG_INFINITY), |best, one| if one.1 > best.1 { one } else { best });
    best.0
}
