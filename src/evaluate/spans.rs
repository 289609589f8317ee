//! The best answers from the logits of windows, as the pipeline `question-answering` of `transformers` finds them.
//!
//! In each window the probability of a span is p(start) p(end), softmax over the context and the token for no answer. The best few spans of
//! every window are widened to whole words of the window; those of the same text count as one, with the sum of their probabilities.

use std::cmp::Ordering;
use std::ops::Range;

use serde::Serialize;

use crate::data::answers::windows::{NO_ANSWER, Window, Windows};

/// Which spans are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Search {
    /// Answers that are wanted.
    pub best: usize,
    /// Tokens of an answer at most.
    pub longest: usize,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    pub text: String,
    /// Its first character in the context, counted from 0.
    pub start: usize,
    /// Behind its last character.
    pub end: usize,
    pub score: f64,
}

/// The outcome for one question.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Best first; none where the context has no tokens.
    pub answers: Vec<Answer>,
    /// The probability of no answer, the least of all windows.
    pub no_answer: f64,
    /// The least score of no answer less the best score of a span, scores being sums of a start's and an end's logit (Devlin et al. 2019,
    /// section 4.3): above a threshold the question counts as one without an answer.
    pub difference: f64,
}

impl Found {
    /// The text of the best answer, empty where the difference is above the threshold; without one, an answer is always given.
    pub fn text(&self, threshold: Option<f64>) -> &str {
        match self.answers.first() {
            Some(best) if threshold.is_none_or(|threshold| self.difference <= threshold) => &best.text,
            _ => "",
        }
    }
}

/// A span of pieces of the context.
#[derive(Clone, Copy)]
struct Candidate {
    pieces: (usize, usize),
    probability: f64,
    score: f64,
}

impl Search {
    /// The best answers of a context, given each window's logits of starts and ends, one for each of its tokens at least.
    pub fn find(&self, context: &str, windows: &Windows, logits: &[(&[f32], &[f32])]) -> Found {
        assert_eq!(windows.windows.len(), logits.len(), "logits of every window");
        // As many as the pipeline takes, because some will turn out to be the same.
        let few = 2 * self.best + 10;
        let mut answers: Vec<(String, Range<usize>, f64)> = vec![];
        let (mut no_answer, mut least, mut most) = (f64::INFINITY, f64::INFINITY, f64::NEG_INFINITY);
        for (window, &(starts, ends)) in windows.windows.iter().zip(logits) {
            let (start, end) = (Softmax::of(window, starts), Softmax::of(window, ends));
            no_answer = no_answer.min(start.none * end.none);
            least = least.min(f64::from(starts[NO_ANSWER]) + f64::from(ends[NO_ANSWER]));
            for Candidate { pieces: (first, last), probability, score } in self.candidates(window, &start, &end, few) {
                most = most.max(score);
                // Words that the window cuts end where it does.
                let inside = &windows.pieces[window.pieces.clone()];
                let (begin, end) = (inside[0].range.start, inside[inside.len() - 1].range.end);
                let range = windows.pieces[first].word.start.max(begin)..windows.pieces[last].word.end.min(end);
                let key = context[range.clone()].to_lowercase();
                match answers.iter_mut().find(|(known, ..)| *known == key) {
                    Some((_, _, sum)) => *sum += probability,
                    None => answers.push((key, range, probability)),
                }
            }
        }
        answers.sort_by(|(.., a), (.., b)| b.total_cmp(a));
        let answer = |(_, range, score): (String, Range<usize>, f64)| {
            let (start, text) = (context[..range.start].chars().count(), context[range].to_string());
            Answer { start, end: start + text.chars().count(), text, score }
        };
        let difference = if most == f64::NEG_INFINITY { f64::INFINITY } else { least - most };
        Found { answers: answers.into_iter().take(self.best).map(answer).collect(), no_answer, difference }
    }

    /// The best few spans of a window, best first.
    fn candidates(&self, window: &Window, start: &Softmax, end: &Softmax, few: usize) -> Vec<Candidate> {
        let pieces = window.pieces.len();
        let spans =
            (0..pieces).flat_map(|first| (first..pieces.min(first + self.longest)).map(move |last| (first, last)));
        let mut all: Vec<Candidate> = spans
            .map(|(first, last)| Candidate {
                pieces: (window.pieces.start + first, window.pieces.start + last),
                probability: start.pieces[first] * end.pieces[last],
                score: start.logits[first] + end.logits[last],
            })
            .collect();
        // Scores tell apart what probabilities near 0 do not.
        let better =
            |a: &Candidate, b: &Candidate| -> Ordering { b.score.total_cmp(&a.score).then(a.pieces.cmp(&b.pieces)) };
        if all.len() > few {
            all.select_nth_unstable_by(few, better);
            all.truncate(few);
        }
        all.sort_by(better);
        all
    }
}

/// Probabilities of a window's positions.
struct Softmax {
    /// Of no answer.
    none: f64,
    /// Of each piece of the context.
    pieces: Vec<f64>,
    logits: Vec<f64>,
}

impl Softmax {
    fn of(window: &Window, logits: &[f32]) -> Softmax {
        let none = f64::from(logits[NO_ANSWER]);
        let logits: Vec<f64> = logits[window.positions()].iter().map(|logit| f64::from(*logit)).collect();
        let most = logits.iter().copied().fold(none, f64::max);
        let sum = (none - most).exp() + logits.iter().map(|logit| (logit - most).exp()).sum::<f64>();
        let probability = |logit: f64| (logit - most).exp() / sum;
        Softmax { none: probability(none), pieces: logits.iter().map(|logit| probability(*logit)).collect(), logits }
    }
}
