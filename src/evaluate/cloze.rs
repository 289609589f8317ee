//! The last word of a text, predicted from the words before it, as for LAMBADA (Paperno et al. 2016).

use serde::Serialize;

use super::prompt::{Prompter, Shots};
use super::scorer::Scorer;
use super::{Accuracy, perplexity};
use crate::data::labelled::Example;
use crate::error::{Error, Result};
use crate::fail;

/// The model's score of one last word.
#[derive(Clone, Debug, Serialize)]
pub struct Completed {
    /// The text's line in its file; 0 if it has none.
    pub line: usize,
    /// The word, with the punctuation that follows it.
    pub word: String,
    /// Of the word and the space before it, in nats.
    pub log_likelihood: f64,
    /// Whether greedy decoding would have written it.
    pub right: bool,
}

/// The share of words that greedy decoding writes, and their perplexity: exp of the mean of −log-likelihood per word.
pub fn figures(completed: &[Completed]) -> Result<(Accuracy, f64)> {
    let sum: f64 = completed.iter().map(|one| one.log_likelihood).sum();
    Ok((Accuracy::of(completed.iter().map(|one| one.right)), perplexity(-sum / completed.len() as f64)?))
}

/// Scores the last word of every text. Errors name a text by its line in `place`.
pub fn complete(
    scorer: &mut Scorer,
    prompter: &mut Prompter,
    (examples, place): (&[Example], &str),
    shots: &Shots,
    done: &mut dyn FnMut(usize),
) -> Result<Vec<Completed>> {
    let mut requests = vec![];
    let mut words = vec![];
    for (question, example) in examples.iter().enumerate() {
        let text = example.texts[0].trim_end();
        let parts = text.rsplit_once(' ').filter(|(context, _)| !context.trim().is_empty());
        let Some((context, word)) = parts else {
            fail!(Input, "line {} of {place} has one word only; the last is asked, so there must be two", example.line);
        };
        let context = shots.text(question, |shot| shot.texts[0].trim_end().to_string()) + context;
        let request = prompter.request(&context, &format!(" {word}"));
        let request =
            request.map_err(|why| Error::Input(format!("the last word in line {} of {place}: {why}", example.line)))?;
        requests.push(request);
        words.push(word);
    }
    let scores = scorer.score(&requests, done)?;
    let completed = examples.iter().zip(words).zip(scores).map(|((example, word), score)| Completed {
        line: example.line,
        word: word.to_string(),
        log_likelihood: score.log_probability,
        right: score.greedy,
    });
    Ok(completed.collect())
}
