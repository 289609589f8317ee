//! Beam search: keeps the n likeliest unfinished texts and extends each by one token at a time.
//!
//! The bookkeeping alone, on the host: the model's log-probabilities come in, the tokens to feed next and the beams they
//! continue go out. It finds what `generate(num_beams=n, do_sample=False)` of transformers 5 finds: sums of
//! log-probabilities in f32, a score of `sum / length^penalty`, where the length counts the drawn tokens and the one that
//! ends the text. Equal sums go to the lower beam, then to the lower id.

use std::cmp::Ordering;

pub use crate::formats::generation_config::EarlyStopping;

/// Whether the ids drawn so far end a text (a stop text has appeared). Asked for every candidate of every step.
pub type Stops<'a> = dyn Fn(&[u32]) -> bool + 'a;

/// How beams are searched.
#[derive(Clone, Copy)]
pub struct BeamOptions<'a> {
    /// Texts that are extended side by side, from 1.
    pub beams: usize,
    /// The power of the length that divides a sum: above 0 favours long texts, below 0 short ones.
    pub length_penalty: f64,
    pub early_stopping: EarlyStopping,
    /// 1 for none. It changes the log-probabilities before they come here.
    pub repetition_penalty: f32,
    /// Tokens that end a text.
    pub stop_tokens: &'a [u32],
    /// What else ends a text.
    pub stops: Option<&'a Stops<'a>>,
    /// Texts to return, up to `beams`.
    pub num_return: usize,
}

impl BeamOptions<'_> {
    /// How many next tokens of each beam the search must see, so that `beams` go on even if every stop token comes first.
    pub fn candidates(&self) -> usize {
        (1 + self.stop_tokens.len()).max(2) * self.beams
    }
}

/// A text that beam search found.
#[derive(Clone, Debug, PartialEq)]
pub struct Hypothesis {
    /// The drawn tokens, with the one that ended the text.
    pub ids: Vec<u32>,
    /// What each token added to the sum, in nats.
    pub log_probabilities: Vec<f32>,
    /// `sum / length^penalty`.
    pub score: f32,
    /// Ended by a stop token or a stop text, not by the number of tokens.
    pub finished: bool,
}

/// What to do after a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Row r continues what row `parents[r]` was with the token `ids[r]`. Both have one entry per beam; rows for which
    /// there is no text (there are fewer texts than beams) repeat row 0 and are not looked at.
    Continue { ids: Vec<u32>, parents: Vec<u32> },
    /// The search is over.
    Done,
}

/// An unfinished text.
#[derive(Clone, Default)]
struct Beam {
    ids: Vec<u32>,
    log_probabilities: Vec<f32>,
    sum: f32,
}

/// One beam and a token that may follow it.
struct Candidate {
    row: usize,
    id: u32,
    log_probability: f32,
    sum: f32,
}

/// A search under way.
pub struct BeamSearch<'a> {
    options: BeamOptions<'a>,
    most_tokens: usize,
    /// Best first, up to `beams`. At first only one, or all beams would become the same text.
    live: Vec<Beam>,
    /// Best first, up to `beams`.
    done: Vec<Hypothesis>,
}

impl<'a> BeamSearch<'a> {
    /// A search for texts of up to `most_tokens` drawn tokens.
    pub fn new(options: BeamOptions<'a>, most_tokens: usize) -> Self {
        BeamSearch { options, most_tokens, live: vec![Beam::default()], done: vec![] }
    }

    /// Takes one step. `candidates[row]` holds the best [`BeamOptions::candidates`] next tokens of that row (fewer if the
    /// vocabulary has fewer) with their log-probabilities. Values that are not finite are passed over.
    pub fn advance(&mut self, candidates: &[Vec<(u32, f32)>]) -> Next {
        let best = self.best(candidates);
        let length = self.live.first().map_or(0, |beam| beam.ids.len()) + 1;
        let (mut live, mut parents) = (vec![], vec![]);
        for (rank, candidate) in best.iter().enumerate() {
            let beam = self.live[candidate.row].with(candidate);
            let finished = self.ends(&beam.ids);
            if finished || length >= self.most_tokens {
                // The lower half is there to go on with, not to end with.
                if rank < self.options.beams {
                    self.done.push(self.hypothesis(beam, finished));
                }
            } else if live.len() < self.options.beams {
                live.push(beam);
                parents.push(candidate.row as u32);
            }
        }
        self.done.sort_by(by_score); // stable: the earlier of equals stays first
        self.done.truncate(self.options.beams);
        if best.is_empty() || live.is_empty() {
            // With nothing to go on with, `finish` still has the beams as they were if nothing was finished.
            self.live.truncate(if best.is_empty() { self.options.beams } else { 0 });
            return Next::Done;
        }
        self.live = live;
        if self.is_over(length) { Next::Done } else { self.proceed(parents) }
    }

    /// The texts, best first, up to `num_return`. Where a search was broken off before there were as many, the unfinished
    /// ones complete the number.
    pub fn finish(mut self) -> Vec<Hypothesis> {
        let open = std::mem::take(&mut self.live);
        let open = open.into_iter().filter(|beam| !beam.ids.is_empty()).map(|beam| self.hypothesis(beam, false));
        let mut open: Vec<Hypothesis> = open.collect();
        open.sort_by(by_score);
        self.done.extend(open);
        self.done.truncate(self.options.num_return);
        self.done
    }

    /// The best candidates of all rows together, best first.
    fn best(&self, candidates: &[Vec<(u32, f32)>]) -> Vec<Candidate> {
        let rows = self.live.iter().zip(candidates).enumerate();
        let mut all: Vec<Candidate> = rows
            .flat_map(|(row, (beam, tokens))| {
                let candidate = move |&(id, log_probability): &(u32, f32)| Candidate {
                    row,
                    id,
                    log_probability,
                    sum: beam.sum + log_probability,
                };
                tokens.iter().map(candidate)
            })
            .filter(|candidate| candidate.sum.is_finite())
            .collect();
        all.sort_by(|a, b| b.sum.total_cmp(&a.sum).then(a.row.cmp(&b.row)).then(a.id.cmp(&b.id)));
        all.truncate(self.options.candidates());
        all
    }

    fn ends(&self, ids: &[u32]) -> bool {
        let token = ids.last().is_some_and(|id| self.options.stop_tokens.contains(id));
        token || self.options.stops.is_some_and(|stops| stops(ids))
    }

    /// Whether the beams, `length` tokens long, are not worth extending.
    fn is_over(&self, length: usize) -> bool {
        if self.done.len() < self.options.beams {
            return false;
        }
        let BeamOptions { early_stopping, length_penalty, .. } = self.options;
        let length = match early_stopping {
            EarlyStopping::Yes => return true,
            // A sum only falls, so a longer text can only be better by its length.
            EarlyStopping::Never if length_penalty > 0.0 => self.most_tokens,
            _ => length,
        };
        let worst = self.done.last().map_or(f32::NEG_INFINITY, |text| text.score);
        self.score(self.live[0].sum, length) <= worst
    }

    fn proceed(&self, mut parents: Vec<u32>) -> Next {
        let mut ids: Vec<u32> = self.live.iter().filter_map(|beam| beam.ids.last().copied()).collect();
        ids.resize(self.options.beams, ids[0]);
        parents.resize(self.options.beams, parents[0]);
        Next::Continue { ids, parents }
    }

    fn hypothesis(&self, beam: Beam, finished: bool) -> Hypothesis {
        let score = self.score(beam.sum, beam.ids.len());
        Hypothesis { ids: beam.ids, log_probabilities: beam.log_probabilities, score, finished }
    }

    fn score(&self, sum: f32, length: usize) -> f32 {
        sum / (length as f64).powf(self.options.length_penalty) as f32
    }
}

impl Beam {
    fn with(&self, candidate: &Candidate) -> Beam {
        let mut beam = Beam { sum: candidate.sum, ..self.clone() };
        beam.ids.push(candidate.id);
        beam.log_probabilities.push(candidate.log_probability);
        beam
    }
}

fn by_score(a: &Hypothesis, b: &Hypothesis) -> Ordering {
    b.score.total_cmp(&a.score)
}
