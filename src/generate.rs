//! Generation: a prompt fills a cache of keys and values, and every further token is one replay of a small decode plan.
//!
//! The token that a step draws stays on the device, where the next step reads it: the host only watches, a few steps behind.
//! Past the context length the last half of it is read again from position 0 and generation goes on from there: positions
//! are learned, so a cache cannot simply slide. Where a model has an encoder, that reads the prompt once, and what the decoder's layers
//! attend to of it is kept in caches of their own.

pub mod beam;
mod decoder;
pub mod fill;
mod graphs;
pub mod stop;

use crate::error::Result;
use crate::executor::Executor;
use crate::formats::folder::Weights;
use crate::formats::upload::upload;
use crate::graph::Graph;
use crate::models::network::Network;
use beam::{BeamOptions, BeamSearch, Hypothesis, Next};
use decoder::{Decoder, Start};
use graphs::Choice;
use std::collections::{BTreeMap, VecDeque};

pub use crate::ops::next_token::SamplingParams;
pub use decoder::MOST_ROWS;
pub use graphs::{positions_name, prefill_graph};

/// A token that was drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Token {
    pub id: u32,
    /// The model's log-probability of it, in nats: log-softmax of the unprocessed logits.
    pub log_probability: f32,
}

/// A token that was drawn in a row, and the most likely ones in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawn {
    pub token: Token,
    /// The most likely tokens in its place, best first; at least as many as the request asked for.
    pub best: Vec<Token>,
}

/// A model on a device that continues texts, `rows` of them at once.
pub struct Generator {
    decoder: Decoder,
}

impl Generator {
    /// A generator whose weights it writes to the device's store. `vocabulary`: ids below it may be drawn.
    pub fn new(
        executor: &mut dyn Executor,
        network: &Network,
        weights: &Weights,
        vocabulary: usize,
        rows: usize,
    ) -> Result<Generator> {
        let generator = Generator::of_store(executor, network, vocabulary, rows)?;
        upload(executor, network, weights)?;
        Ok(generator)
    }

    /// A generator of the model whose weights are in the device's store, or will be.
    pub fn of_store(
        executor: &mut dyn Executor,
        network: &Network,
        vocabulary: usize,
        rows: usize,
    ) -> Result<Generator> {
        network.config().must_write("continue a text")?;
        network.config().must_remember("continue a text")?;
        Ok(Generator { decoder: Decoder::new(executor, network, vocabulary, rows)? })
    }

    /// Whether prompts are an encoder's inputs, which texts do not continue.
    pub fn has_source(&self) -> bool {
        self.decoder.has_source()
    }

    /// Tokens that a text can have at most, whatever its request says: the context of a model with an encoder.
    pub fn most_tokens(&self) -> usize {
        self.decoder.most_tokens()
    }

    /// Draws up to `tokens` tokens in each row after `prompt`; row r draws with seed `seed + r`. `take(row, token)` gets each
    /// row's tokens in order and returns whether the row goes on. See [`Generator::generate`].
    ///
    /// Panics if `prompt` is empty.
    pub fn sample(
        &mut self,
        executor: &mut dyn Executor,
        prompt: &[u32],
        tokens: usize,
        draw: &SamplingParams,
        seed: u32,
        take: &mut dyn FnMut(usize, Token) -> Result<bool>,
    ) -> Result<()> {
        let request =
            |row| Request { prompt: prompt.to_vec(), tokens, seed: seed.wrapping_add(row), params: *draw, best: 0 };
        self.generate(executor, &mut (0..self.decoder.rows() as u32).map(request), take)
    }

    /// Draws texts for all requests, as many at a time as there are rows: where a text ends, the next request takes its row.
    /// `take(n, token)` gets the tokens of request number n in order, as they arrive, and returns whether the text goes on. A
    /// text is the same whatever is drawn beside it, but for ties by rounding.
    ///
    /// Panics if a prompt is empty.
    pub fn generate(
        &mut self,
        executor: &mut dyn Executor,
        requests: &mut dyn Iterator<Item = Request>,
        take: &mut dyn FnMut(usize, Token) -> Result<bool>,
    ) -> Result<()> {
        self.generate_all(executor, &mut Listed { requests: requests.enumerate().fuse(), take })
    }

    /// As [`Generator::generate`], of requests that may come while others are under way: `texts` is asked before each step where
    /// rows are free. Returns when nothing is under way and there is nothing to begin.
    pub fn generate_all(&mut self, executor: &mut dyn Executor, texts: &mut dyn Texts) -> Result<()> {
        let generated = self.generate_steps(executor, texts);
        // Steps that were queued before their text had ended are under way still.
        let last = self.decoder.collect(executor, true);
        generated.and(last.map(|_| ()))
    }

    fn generate_steps(&mut self, executor: &mut dyn Executor, texts: &mut dyn Texts) -> Result<()> {
        let mut rows = Rows::new(self.decoder.rows(), self.decoder.most_tokens());
        loop {
            let started = rows.fill(texts);
            let choice = rows.choice(self.decoder.vocabulary());
            if !started.is_empty() {
                let starts = started.iter().map(|row| rows.start(*row)).collect::<Vec<_>>();
                self.decoder.start(executor, &choice, &starts)?;
            }
            if rows.texts.iter().all(Option::is_none) {
                return Ok(());
            }
            let is_full = |decoder: &Decoder, rows: &Rows| {
                (0..rows.texts.len()).filter(|row| rows.wants(*row) && decoder.is_full(*row)).collect::<Vec<_>>()
            };
            if !is_full(&self.decoder, &rows).is_empty() {
                // The texts so far are needed to read the last of them again.
                rows.deliver(&self.decoder.collect(executor, true)?, texts)?;
                for row in is_full(&self.decoder, &rows) {
                    self.decoder.slide(executor, row, &rows.text(row).ids)?;
                }
            }
            let goes_on = (0..rows.texts.len()).any(|row| rows.wants(row));
            if goes_on {
                self.decoder.step(executor, &choice)?;
                if choice != PLAIN {
                    rows.best.push_back((rows.queued, self.decoder.candidates(executor, &choice)?));
                }
                rows.queued += 1;
            }
            rows.deliver(&self.decoder.collect(executor, !goes_on)?, texts)?;
        }
    }

    /// The best continuations of `prompt` by beam search; the generator's rows are the beams.
    ///
    /// Panics if `prompt` is empty or the rows are not `options.beams`.
    pub fn beams(
        &mut self,
        executor: &mut dyn Executor,
        prompt: &[u32],
        tokens: usize,
        options: &BeamOptions,
    ) -> Result<Vec<Hypothesis>> {
        assert_eq!(self.decoder.rows(), options.beams, "a row for every beam");
        let count = options.candidates().min(self.decoder.vocabulary());
        let choice = Choice::Best { count, repetition_penalty: options.repetition_penalty };
        self.begin(executor, prompt, &choice)?;
        let mut search = BeamSearch::new(*options, tokens.min(self.decoder.most_tokens()));
        let mut texts = vec![prompt.to_vec(); options.beams];
        for _ in 0..tokens.min(self.decoder.most_tokens()) {
            for (row, text) in texts.iter().enumerate() {
                if self.decoder.is_full(row) {
                    self.decoder.slide(executor, row, text)?;
                }
            }
            self.decoder.step(executor, &choice)?;
            let candidates = self.decoder.candidates(executor, &choice)?;
            let Next::Continue { ids, parents } = search.advance(&candidates) else { break };
            texts = parents.iter().map(|parent| texts[*parent as usize].clone()).collect();
            texts.iter_mut().zip(&ids).for_each(|(text, id)| text.push(*id));
            self.decoder.follow(executor, &choice, &ids, &parents)?;
        }
        Ok(search.finish())
    }

    /// Logits (rows, V) of the token after `prompt`.
    pub fn logits(&mut self, executor: &mut dyn Executor, prompt: &[u32]) -> Result<Vec<f32>> {
        let choice = PLAIN;
        self.begin(executor, prompt, &choice)?;
        self.decoder.step(executor, &choice)?;
        self.decoder.collect(executor, true)?;
        self.decoder.logits(executor, &choice)
    }

    /// Makes every row `prompt`.
    fn begin(&mut self, executor: &mut dyn Executor, prompt: &[u32], choice: &Choice) -> Result<()> {
        let params = SamplingParams::GREEDY;
        let starts = (0..self.decoder.rows()).map(|row| Start { row, prompt, seed: 0, params });
        self.decoder.start(executor, choice, &starts.collect::<Vec<_>>())
    }

    /// Frees the programs, the caches and the other states of generation; no other generator of as many rows may be in use.
    pub fn free(self, executor: &mut dyn Executor) {
        self.decoder.free(executor);
    }
}

/// The graph that decodes one greedy token in each of `rows` rows, as [`Generator::generate`] replays it; its output `logits`
/// is (rows, 1, V). The state that [`positions_name`] names says where each row stands.
pub fn decode_graph(network: &Network, rows: usize) -> Graph {
    graphs::decode_graph(network, network.config().vocab_size, rows, &PLAIN)
}

/// As [`decode_graph`], drawing from ids below `vocabulary` as the state of parameters says.
pub fn decode_graph_of(network: &Network, vocabulary: usize, rows: usize) -> Graph {
    graphs::decode_graph(network, vocabulary, rows, &PLAIN)
}

/// The lengths of windows that prompts are read in.
pub fn windows(context: usize) -> Vec<usize> {
    let mut windows: Vec<usize> = (1..context).map(|tokens| graphs::window(tokens, context)).collect();
    windows.dedup();
    windows
}

/// The states of decoding by what they are: ids, seen, positions, seeds, params and report.
pub fn state_names(network: &Network, rows: usize) -> BTreeMap<&'static str, String> {
    let all = ["ids", "seen", "positions", "seeds", "params", "report"];
    all.into_iter().map(|what| (what, graphs::state_name(network, rows, what))).collect()
}

/// The graphs with which a generator of `rows` rows draws from ids below `vocabulary` after prompts of up to `longest` tokens.
pub fn generation_graphs(network: &Network, (vocabulary, rows): (usize, usize), longest: usize) -> Vec<Graph> {
    let decode = graphs::decode_graph(network, vocabulary, rows, &PLAIN);
    let window = graphs::window(longest, network.config().context);
    let prefill = graphs::prefill_graph(network, rows, window);
    vec![decode, prefill, graphs::reorder_graph(network, vocabulary, rows)]
}

/// A text to generate.
#[derive(Clone, Debug)]
pub struct Request {
    /// At least one token; the last of them that fit the context are seen. Of a model with an encoder its input, of which the first that
    /// fit are seen.
    pub prompt: Vec<u32>,
    /// How many are drawn at most.
    pub tokens: usize,
    pub seed: u32,
    pub params: SamplingParams,
    /// How many of the most likely tokens are told in each token's place; at most [`MOST_BEST`].
    pub best: usize,
}

/// The most that [`Request::best`] may ask for.
pub const MOST_BEST: usize = 20;

/// Where texts come from, and where their tokens go.
pub trait Texts {
    /// A text to begin now, and the number that its tokens come with.
    fn next(&mut self) -> Option<(usize, Request)>;

    /// Takes the next token of text number n; whether the text goes on.
    fn take(&mut self, n: usize, drawn: Drawn) -> Result<bool>;
}

/// Texts that are known from the start.
struct Listed<'a, I> {
    requests: I,
    take: &'a mut dyn FnMut(usize, Token) -> Result<bool>,
}

impl<I: Iterator<Item = (usize, Request)>> Texts for Listed<'_, I> {
    fn next(&mut self) -> Option<(usize, Request)> {
        self.requests.next()
    }

    fn take(&mut self, n: usize, drawn: Drawn) -> Result<bool> {
        (self.take)(n, drawn.token)
    }
}

/// A step that tells the drawn tokens only.
const PLAIN: Choice = Choice::Draw { best: 0 };

/// The texts under way, one in each row that has one.
struct Rows {
    texts: Vec<Option<Text>>,
    /// Tokens that a text can have at most.
    most: usize,
    /// Steps that were queued, and steps whose tokens have arrived.
    queued: u64,
    arrived: u64,
    /// Of steps whose tokens have not arrived, the most likely tokens of each row, where they are wanted.
    best: VecDeque<(u64, Candidates)>,
}

/// The most likely tokens of each row with their log-probabilities.
type Candidates = Vec<Vec<(u32, f32)>>;

struct Text {
    /// Of the request.
    number: usize,
    seed: u32,
    params: SamplingParams,
    best: usize,
    /// The prompt and the tokens that have arrived.
    ids: Vec<u32>,
    /// The step that draws its first token, and one past the step that draws its last.
    first: u64,
    end: u64,
}

impl Rows {
    /// `most`: tokens that a text can have at most.
    fn new(rows: usize, most: usize) -> Rows {
        Rows { texts: (0..rows).map(|_| None).collect(), most, queued: 0, arrived: 0, best: VecDeque::new() }
    }

    /// Gives free rows to the next requests, and says which.
    fn fill(&mut self, texts: &mut dyn Texts) -> Vec<usize> {
        let mut started = vec![];
        for row in 0..self.texts.len() {
            if self.texts[row].is_some() {
                continue;
            }
            let next = loop {
                match texts.next() {
                    Some((_, Request { tokens: 0, .. })) => {}
                    next => break next,
                }
            };
            let Some((number, Request { prompt, tokens, seed, params, best })) = next else { break };
            let (first, end) = (self.queued, self.queued + tokens.min(self.most) as u64);
            self.texts[row] = Some(Text { number, seed, params, best, ids: prompt, first, end });
            started.push(row);
        }
        started
    }

    /// What the next step does with its logits: few different things, because each is a program.
    fn choice(&self, vocabulary: usize) -> Choice {
        let most = self.texts.iter().flatten().map(|text| text.best).max().unwrap_or(0);
        let best = match most {
            0 => 0,
            1..=5 => 5,
            _ => MOST_BEST,
        };
        Choice::Draw { best: best.min(vocabulary) }
    }

    fn text(&self, row: usize) -> &Text {
        self.texts[row].as_ref().expect("a text under way")
    }

    fn start(&self, row: usize) -> Start<'_> {
        let Text { ids, seed, params, .. } = self.text(row);
        Start { row, prompt: ids, seed: *seed, params: *params }
    }

    /// Whether the row's text needs another step.
    fn wants(&self, row: usize) -> bool {
        self.texts[row].as_ref().is_some_and(|text| self.queued < text.end)
    }

    /// Hands the tokens of steps on, and frees the rows of texts that end with them.
    fn deliver(&mut self, steps: &[Vec<Token>], texts: &mut dyn Texts) -> Result<()> {
        for step in steps {
            let number = self.arrived;
            self.arrived += 1;
            let is_of_step = self.best.front().is_some_and(|(of, _)| *of == number);
            let best = if is_of_step { self.best.pop_front() } else { None };
            for (row, (place, token)) in self.texts.iter_mut().zip(step).enumerate() {
                // A row may have got its text after the step was queued.
                let Some(text) = place.as_mut().filter(|text| number >= text.first) else { continue };
                text.ids.push(token.id);
                let of_row = best.iter().filter(|_| text.best > 0).flat_map(|(_, best)| &best[row]);
                let best = of_row.map(|(id, log_probability)| Token { id: *id, log_probability: *log_probability });
                let drawn = Drawn { token: *token, best: best.collect() };
                if !texts.take(text.number, drawn)? || number + 1 == text.end {
                    *place = None;
                }
            }
        }
        Ok(())
    }
}
