//! Generation: a prompt fills a cache of keys and values, and every further token is one replay of a small decode plan.
//!
//! The token that a step draws stays on the device, where the next step reads it: the host only watches, a few steps behind.
//! Past the context length the last half of it is read again from position 0 and generation goes on from there: positions
//! are learned, so a cache cannot simply slide.

pub mod beam;
mod decoder;
pub mod fill;
pub mod stop;

use crate::error::Result;
use crate::executor::Executor;
use crate::formats::folder::Weights;
use crate::formats::upload::upload;
use crate::graph::Graph;
use crate::models::network::Network;
use beam::{BeamOptions, BeamSearch, Hypothesis, Next};
use decoder::{Choice, Decoder, Start};

pub use decoder::{MOST_ROWS, positions_name};

/// What one token was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Token {
    pub id: u32,
    /// The model's log-probability of it, in nats: log-softmax of the unprocessed logits.
    pub log_probability: f32,
}

/// How tokens are drawn: with the meaning of Hugging Face transformers, in the order of the fields.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Above 1, tokens that the text has become less likely; 1 is off.
    pub repetition_penalty: f32,
    /// Below 1 is more likely text, above 1 more varied; 0 takes the most likely token.
    pub temperature: f32,
    /// Draws among this many of the most likely tokens; 0 for all.
    pub top_k: usize,
    /// Draws among the most likely tokens that together reach this probability; 1 for all.
    pub top_p: f32,
    /// Draws among tokens at least this many times as likely as the most likely one; 0 for all.
    pub min_p: f32,
}

impl SamplingParams {
    /// The most likely token, always.
    pub const GREEDY: SamplingParams =
        SamplingParams { repetition_penalty: 1.0, temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0 };
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
        network.config().must_decode("continue a text")?;
        network.config().must_not_recur("continue a text")?;
        Ok(Generator { decoder: Decoder::new(executor, network, vocabulary, rows)? })
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
        let request = |row| Request { prompt: prompt.to_vec(), tokens, seed: seed.wrapping_add(row) };
        self.generate(executor, &mut (0..self.decoder.rows() as u32).map(request), draw, take)
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
        draw: &SamplingParams,
        take: &mut dyn FnMut(usize, Token) -> Result<bool>,
    ) -> Result<()> {
        let generated = self.generate_steps(executor, requests, draw, take);
        // Steps that were queued before their text had ended are under way still.
        let last = self.decoder.collect(executor, true);
        generated.and(last.map(|_| ()))
    }

    fn generate_steps(
        &mut self,
        executor: &mut dyn Executor,
        requests: &mut dyn Iterator<Item = Request>,
        draw: &SamplingParams,
        take: &mut dyn FnMut(usize, Token) -> Result<bool>,
    ) -> Result<()> {
        let choice = Choice::Draw(draw.clone());
        let mut rows = Rows { texts: (0..self.decoder.rows()).map(|_| None).collect(), queued: 0, arrived: 0 };
        let mut requests = requests.enumerate().filter(|(_, request)| request.tokens > 0).fuse();
        loop {
            let started = rows.fill(&mut requests);
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
                rows.deliver(&self.decoder.collect(executor, true)?, take)?;
                for row in is_full(&self.decoder, &rows) {
                    self.decoder.slide(executor, row, &rows.text(row).ids)?;
                }
            }
            let goes_on = (0..rows.texts.len()).any(|row| rows.wants(row));
            if goes_on {
                self.decoder.step(executor, &choice)?;
                rows.queued += 1;
            }
            rows.deliver(&self.decoder.collect(executor, !goes_on)?, take)?;
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
        let mut search = BeamSearch::new(*options, tokens);
        let mut texts = vec![prompt.to_vec(); options.beams];
        for _ in 0..tokens {
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
        let choice = Choice::Draw(SamplingParams::GREEDY);
        self.begin(executor, prompt, &choice)?;
        self.decoder.step(executor, &choice)?;
        self.decoder.collect(executor, true)?;
        self.decoder.logits(executor, &choice)
    }

    /// Makes every row `prompt`.
    fn begin(&mut self, executor: &mut dyn Executor, prompt: &[u32], choice: &Choice) -> Result<()> {
        let starts = (0..self.decoder.rows()).map(|row| Start { row, prompt, seed: 0 });
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
    decoder::decode_graph(network, network.config().vocab_size, rows, &Choice::Draw(SamplingParams::GREEDY))
}

/// The graphs with which a generator of `rows` rows draws from ids below `vocabulary` after prompts of up to `longest` tokens.
pub fn generation_graphs(
    network: &Network,
    (vocabulary, rows): (usize, usize),
    longest: usize,
    params: &SamplingParams,
) -> Vec<Graph> {
    let decode = decoder::decode_graph(network, vocabulary, rows, &Choice::Draw(params.clone()));
    let prefill = decoder::prefill_graph(network, rows, decoder::window(longest, network.config().context));
    vec![decode, prefill, decoder::reorder_graph(network, vocabulary, rows)]
}

/// A text to generate.
#[derive(Clone, Debug)]
pub struct Request {
    /// At least one token; the last of them that fit the context are seen.
    pub prompt: Vec<u32>,
    /// How many are drawn at most.
    pub tokens: usize,
    pub seed: u32,
}

/// The texts under way, one in each row that has one.
struct Rows {
    texts: Vec<Option<Text>>,
    /// Steps that were queued, and steps whose tokens have arrived.
    queued: u64,
    arrived: u64,
}

struct Text {
    /// Of the request.
    number: usize,
    seed: u32,
    /// The prompt and the tokens that have arrived.
    ids: Vec<u32>,
    /// The step that draws its first token, and one past the step that draws its last.
    first: u64,
    end: u64,
}

impl Rows {
    /// Gives free rows to the next requests, and says which.
    fn fill(&mut self, requests: &mut dyn Iterator<Item = (usize, Request)>) -> Vec<usize> {
        let mut started = vec![];
        for row in 0..self.texts.len() {
            if self.texts[row].is_some() {
                continue;
            }
            let Some((number, Request { prompt, tokens, seed })) = requests.next() else { break };
            let (first, end) = (self.queued, self.queued + tokens as u64);
            self.texts[row] = Some(Text { number, seed, ids: prompt, first, end });
            started.push(row);
        }
        started
    }

    fn text(&self, row: usize) -> &Text {
        self.texts[row].as_ref().expect("a text under way")
    }

    fn start(&self, row: usize) -> Start<'_> {
        Start { row, prompt: &self.text(row).ids, seed: self.text(row).seed }
    }

    /// Whether the row's text needs another step.
    fn wants(&self, row: usize) -> bool {
        self.texts[row].as_ref().is_some_and(|text| self.queued < text.end)
    }

    /// Hands the tokens of steps on, and frees the rows of texts that end with them.
    fn deliver(&mut self, steps: &[Vec<Token>], take: &mut dyn FnMut(usize, Token) -> Result<bool>) -> Result<()> {
        for step in steps {
            let number = self.arrived;
            self.arrived += 1;
            for (place, token) in self.texts.iter_mut().zip(step) {
                // A row may have got its text after the step was queued.
                let Some(text) = place.as_mut().filter(|text| number >= text.first) else { continue };
                text.ids.push(token.id);
                if !take(text.number, *token)? || number + 1 == text.end {
                    *place = None;
                }
            }
        }
        Ok(())
    }
}
