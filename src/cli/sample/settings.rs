//! What the flags, the model's `generation_config.json` and our defaults make together, in this order.

use clap::ValueEnum;
use wgpt::error::Result;
use wgpt::fail;
use wgpt::formats::generation_config::GenerationConfig;
use wgpt::generate::beam::{BeamOptions, EarlyStopping};
use wgpt::generate::{MOST_ROWS, SamplingParams};

const TOKENS: usize = 200;
const TEMPERATURE: f32 = 0.8;
const BEAMS: usize = 4;

/// How texts are generated. What is not given here is taken from the model's `generation_config.json`, if it says.
#[derive(Clone, clap::Args)]
pub struct Choices {
    /// Tokens to generate at most [default: the model's, or 200]
    #[arg(long, value_name = "N")]
    tokens: Option<usize>,
    /// How the next token is chosen [default: the model's, or sample]
    #[arg(long, value_enum)]
    strategy: Option<Strategy>,
    /// Sample: below 1 is more likely text, above 1 more varied, 0 is greedy [default: the model's, or 0.8]
    #[arg(long, allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Sample among the K most likely tokens only; 0 for all; words that an encoder shows for a mask [default: the model's, or 0; 5 words]
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Sample among the most likely tokens that together have this probability [default: the model's, or 1]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Sample among tokens with at least this share of the likeliest one's probability [default: the model's, or 0]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Above 1 makes tokens that have come before less likely [default: the model's, or 1]
    #[arg(long, value_name = "FACTOR", allow_negative_numbers = true)]
    repetition_penalty: Option<f32>,
    /// Beam: texts that are extended side by side [default: the model's, or 4]
    #[arg(long, value_name = "N")]
    beams: Option<usize>,
    /// Beam: above 0 favours long texts, below 0 short ones [default: the model's, or 1]
    #[arg(long, value_name = "POWER", allow_negative_numbers = true)]
    length_penalty: Option<f32>,
    /// Beam: end with as many finished texts as beams (yes), when the best beam is no better than they are (no), or
    /// when it cannot become better (never) [default: the model's, or no]
    #[arg(long, value_enum, value_name = "WHEN")]
    early_stopping: Option<Early>,
    /// End before this text; \n stands for a line break; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// End at this token, besides those of the model; may be given several times
    #[arg(long, value_name = "ID")]
    stop_token: Vec<u32>,
    /// Texts to generate
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub count: usize,
    /// Texts that are generated at once, where there are as many [default: 64]
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Seed of a prompt's first text; each further one has the next
    #[arg(long, default_value_t = 1337)]
    seed: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Strategy {
    /// The most likely token each time
    Greedy,
    /// A random token, by its probability
    Sample,
    /// The likeliest of many texts, extended side by side
    Beam,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Early {
    #[value(alias = "true")]
    Yes,
    #[value(alias = "false")]
    No,
    Never,
}

/// Everything that is settled before the first token.
pub struct Settings {
    pub method: Method,
    limit: Limit,
    pub count: usize,
    batch: usize,
    pub seed: u32,
    pub stop_tokens: Vec<u32>,
    pub stops: Vec<String>,
}

/// How long a text becomes, at most.
#[derive(Clone, Copy)]
enum Limit {
    /// So many tokens after the prompt.
    New(usize),
    /// So many tokens with the prompt: `max_length` of `transformers`.
    All(usize),
}

#[derive(Clone)]
pub enum Method {
    /// Each token is drawn, greedily at temperature 0.
    Draw(SamplingParams),
    /// The stop tokens and texts are still to be filled in.
    Beam(BeamOptions<'static>),
}

impl Choices {
    /// Words for each mask, where that is said.
    pub fn top_k(&self) -> Option<usize> {
        self.top_k.filter(|k| *k > 0)
    }

    /// The first flag beside --top-k that is given.
    pub fn beside_top_k(&self) -> Option<&'static str> {
        let given = [
            ("tokens", self.tokens.is_some()),
            ("strategy", self.strategy.is_some()),
            ("temperature", self.temperature.is_some()),
            ("top-p", self.top_p.is_some()),
            ("min-p", self.min_p.is_some()),
            ("repetition-penalty", self.repetition_penalty.is_some()),
            ("beams", self.beams.is_some()),
            ("length-penalty", self.length_penalty.is_some()),
            ("early-stopping", self.early_stopping.is_some()),
            ("stop", !self.stop.is_empty()),
            ("stop-token", !self.stop_token.is_empty()),
            ("count", self.count != 1),
            ("batch", self.batch.is_some()),
        ];
        given.into_iter().find(|(_, given)| *given).map(|(name, _)| name)
    }

    /// Refuses values that can never be meant, before anything is opened.
    pub fn check(&self) -> Result<()> {
        let probability = |p: f32| (0.0..=1.0).contains(&p);
        number("temperature", self.temperature, |t| t >= 0.0, "a number from 0 up")?;
        number("top-p", self.top_p, probability, "a number from 0 to 1")?;
        number("min-p", self.min_p, probability, "a number from 0 to 1")?;
        number("repetition-penalty", self.repetition_penalty, |p| p > 0.0, "a number above 0")?;
        number("length-penalty", self.length_penalty, |_| true, "a finite number")?;
        if self.beams.is_some_and(|beams| !(1..=MOST_ROWS).contains(&beams)) {
            fail!(Usage, "--beams {} is not from 1 to {MOST_ROWS}", self.beams.unwrap_or_default());
        }
        if self.batch.is_some_and(|rows| !(1..=MOST_ROWS).contains(&rows)) {
            fail!(Usage, "--batch {} is not from 1 to {MOST_ROWS}", self.batch.unwrap_or_default());
        }
        let counted = [("tokens", self.tokens), ("count", Some(self.count))];
        if let Some((flag, _)) = counted.into_iter().find(|(_, value)| *value == Some(0)) {
            fail!(Usage, "--{flag} 0 asks for nothing: give at least 1");
        }
        if self.stop.iter().any(String::is_empty) {
            fail!(Usage, "--stop is empty: give the text that ends the text");
        }
        Ok(())
    }

    /// Completes the choices; `ends` are the tokens that end a text of this model.
    pub fn settle(&self, model: &GenerationConfig, ends: &[u32], vocabulary: usize) -> Result<Settings> {
        if let Some(id) = self.stop_token.iter().find(|id| **id as usize >= vocabulary) {
            fail!(Usage, "--stop-token {id} is beyond the {vocabulary} tokens of the model");
        }
        let strategy = self.strategy.unwrap_or_else(|| asked_by(model));
        self.refuse_contradictions(strategy)?;
        let repetition_penalty = self.repetition_penalty.or(model.repetition_penalty).unwrap_or(1.0);
        let greedy = SamplingParams { repetition_penalty, ..SamplingParams::GREEDY };
        let drawn = sampled_by(model);
        let method = match strategy {
            Strategy::Greedy => Method::Draw(greedy),
            Strategy::Sample => Method::Draw(SamplingParams {
                temperature: self.temperature.unwrap_or(drawn.temperature),
                top_k: self.top_k.unwrap_or(drawn.top_k),
                top_p: self.top_p.unwrap_or(drawn.top_p),
                min_p: self.min_p.unwrap_or(drawn.min_p),
                ..greedy
            }),
            Strategy::Beam => Method::Beam(BeamOptions {
                beams: self.beams.or(model.num_beams.filter(|beams| *beams > 1)).unwrap_or(BEAMS).min(MOST_ROWS),
                length_penalty: self.length_penalty.or(model.length_penalty).map_or(1.0, f64::from),
                early_stopping: self
                    .early_stopping
                    .map(Early::meaning)
                    .or(model.early_stopping)
                    .unwrap_or(EarlyStopping::No),
                repetition_penalty,
                stop_tokens: &[],
                stops: None,
                num_return: self.count,
            }),
        };
        self.check_count(&method)?;
        let mut stop_tokens: Vec<u32> = ends.iter().chain(&self.stop_token).copied().collect();
        stop_tokens.sort_unstable();
        stop_tokens.dedup();
        // A configuration may name tokens that the model does not have; they never come.
        stop_tokens.retain(|id| (*id as usize) < vocabulary);
        let stops = self.stop.iter().map(|stop| stop.replace("\\n", "\n"));
        Ok(Settings {
            method,
            limit: match (self.tokens.or(model.max_new_tokens.filter(|n| *n > 0)), model.max_length) {
                (Some(new), _) => Limit::New(new),
                (None, Some(all)) if all > 0 => Limit::All(all),
                _ => Limit::New(TOKENS),
            },
            count: self.count,
            batch: self.batch.unwrap_or(MOST_ROWS),
            seed: self.seed,
            stop_tokens,
            stops: stops.chain(model.stop_strings.iter().cloned()).collect(),
        })
    }

    /// Flags of beam search, and whether they are given.
    fn of_beam(&self) -> [(&'static str, bool); 3] {
        [
            ("beams", self.beams.is_some()),
            ("length-penalty", self.length_penalty.is_some()),
            ("early-stopping", self.early_stopping.is_some()),
        ]
    }

    /// The same for answers that are to differ: sampled, whatever the model's `generation_config.json` asks for.
    pub fn drawn(&self) -> Result<Choices> {
        if let Some(strategy) = self.strategy.filter(|strategy| *strategy != Strategy::Sample) {
            fail!(
                Usage,
                "--strategy {} gives one answer to a prompt, and these are to differ: leave it out",
                strategy.name()
            );
        }
        if let Some((flag, _)) = self.of_beam().into_iter().find(|(_, is_given)| *is_given) {
            fail!(Usage, "--{flag} is for beam search, and these texts are drawn: leave it out");
        }
        if self.temperature == Some(0.0) {
            fail!(Usage, "--temperature 0 gives the same answer each time: give a number above 0");
        }
        Ok(Choices { strategy: Some(Strategy::Sample), ..self.clone() })
    }

    /// A flag that the strategy has no use for is a mistake, not something to pass over.
    fn refuse_contradictions(&self, strategy: Strategy) -> Result<()> {
        let of_sample = [
            ("temperature", self.temperature.is_some()),
            ("top-k", self.top_k.is_some()),
            ("top-p", self.top_p.is_some()),
            ("min-p", self.min_p.is_some()),
        ];
        if strategy == Strategy::Beam && self.batch.is_some() {
            fail!(Usage, "--batch does not go with --strategy beam, which extends --beams texts at once: leave it out");
        }
        let sample = of_sample.into_iter().map(|flag| (Strategy::Sample, flag));
        let all = sample.chain(self.of_beam().into_iter().map(|flag| (Strategy::Beam, flag)));
        for (owner, (flag, is_given)) in all {
            if is_given && owner != strategy {
                let (owner, strategy) = (owner.name(), strategy.name());
                let from = if self.strategy.is_none() { " unless one is named" } else { "" };
                fail!(
                    Usage,
                    "--{flag} belongs to --strategy {owner}, and the strategy is {strategy}{from}: add --strategy {owner}, \
                     or leave --{flag} out"
                );
            }
        }
        Ok(())
    }

    /// Refuses a number of texts that the strategy cannot give.
    fn check_count(&self, method: &Method) -> Result<()> {
        match method {
            Method::Beam(BeamOptions { beams, .. }) if self.count > *beams => {
                fail!(Usage, "--count {} is more than the {beams} beams: give as many --beams", self.count)
            }
            Method::Draw(draw) if draw.temperature == 0.0 && self.count > 1 => {
                fail!(Usage, "--count {} of greedy gives one text many times: use --strategy sample", self.count)
            }
            _ => Ok(()),
        }
    }
}

impl Settings {
    /// Tokens to generate at most after a prompt of so many.
    pub fn tokens(&self, prompt: usize) -> Result<usize> {
        match self.limit {
            Limit::New(tokens) => Ok(tokens),
            Limit::All(all) if all > prompt => Ok(all - prompt),
            Limit::All(all) => fail!(
                Input,
                "the prompt has {prompt} tokens, and the model's generation_config.json ends a text at {all} with the prompt \
                 (max_length): say with --tokens how many to add"
            ),
        }
    }

    /// Texts that a generator for these settings works on at once, for so many prompts.
    pub fn rows(&self, prompts: usize) -> usize {
        match &self.method {
            Method::Draw(_) => self.count.saturating_mul(prompts).min(self.batch),
            Method::Beam(options) => options.beams,
        }
    }
}

impl Strategy {
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_string())
    }
}

impl Early {
    fn meaning(self) -> EarlyStopping {
        match self {
            Early::Yes => EarlyStopping::Yes,
            Early::No => EarlyStopping::No,
            Early::Never => EarlyStopping::Never,
        }
    }
}

/// How a model's tokens are drawn where nothing else is said: as its configuration asks, or by our defaults.
pub fn drawn_by(model: &GenerationConfig) -> SamplingParams {
    match asked_by(model) {
        Strategy::Sample => sampled_by(model),
        Strategy::Greedy | Strategy::Beam => {
            SamplingParams { repetition_penalty: model.repetition_penalty.unwrap_or(1.0), ..SamplingParams::GREEDY }
        }
    }
}

/// The parameters of sampling that a model's configuration asks for, or our defaults.
fn sampled_by(model: &GenerationConfig) -> SamplingParams {
    let none = SamplingParams::GREEDY;
    SamplingParams {
        repetition_penalty: model.repetition_penalty.unwrap_or(none.repetition_penalty),
        temperature: model.temperature.unwrap_or(TEMPERATURE),
        top_k: model.top_k.unwrap_or(none.top_k),
        top_p: model.top_p.unwrap_or(none.top_p),
        min_p: model.min_p.unwrap_or(none.min_p),
    }
}

/// The strategy that a model's configuration asks for. Sampling with beams is not implemented: it is sampling.
fn asked_by(model: &GenerationConfig) -> Strategy {
    match (model.do_sample, model.num_beams) {
        (Some(true), _) => Strategy::Sample,
        (_, Some(2..)) => Strategy::Beam,
        (Some(false), _) => Strategy::Greedy,
        (None, _) => Strategy::Sample,
    }
}

fn number(flag: &str, value: Option<f32>, fits: impl Fn(f32) -> bool, what: &str) -> Result<()> {
    match value {
        Some(value) if !(value.is_finite() && fits(value)) => fail!(Usage, "--{flag} {value} is not {what}"),
        _ => Ok(()),
    }
}
