//! Answers of a model to prompts, drawn together, that differ.

use crate::cli::sample::settings::Settings;
use wgpt::data::chat_template::{ASSISTANT, Message};
use wgpt::data::dialogues::Part;
use wgpt::data::prompts::Prompt;
use wgpt::data::tokenizer::Tokenizer;
use wgpt::error::Result;
use wgpt::executor::Executor;
use wgpt::generate::stop::{Continuation, Finish};
use wgpt::generate::{Generator, Request, SamplingParams};

/// Times that answers are drawn until they differ.
pub const ROUNDS: usize = 4;
/// Seeds of a prompt: more than it has answers in all rounds.
const SEEDS: u32 = 64;

/// A prompt as tokens.
pub struct Asked {
    pub part: Part,
    pub ids: Vec<u32>,
    /// Its number in the file, from 0: it draws with seeds of its own.
    pub number: u32,
}

impl Asked {
    pub fn new(prompt: Prompt, number: usize, tokenizer: &Tokenizer) -> Result<Asked> {
        let (_, ids) = prompt.opened(tokenizer)?;
        Ok(Asked { part: prompt.prompt, ids, number: number as u32 })
    }

    /// An answer of the form that the prompt has.
    fn answer(&self, text: String) -> Part {
        match self.part {
            Part::Text(_) => Part::Text(text),
            Part::Messages(_) => Part::Messages(vec![Message { role: ASSISTANT.into(), content: text }]),
        }
    }
}

/// The text of an answer.
pub fn text_of(answer: &Part) -> &str {
    match answer {
        Part::Text(text) => text,
        Part::Messages(messages) => messages.last().map_or("", |message| &message.content),
    }
}

/// A model on a device that draws answers.
pub struct Drawer {
    pub executor: Box<dyn Executor>,
    pub generator: Generator,
    pub tokenizer: Tokenizer,
    pub settings: Settings,
    pub draw: SamplingParams,
    /// What ends an answer to messages, beside the settings' stop texts.
    pub end_of_turn: Option<String>,
}

impl Drawer {
    /// `settings.count` answers to each prompt, none of which are empty or the same but for spaces around them; fewer where all rounds
    /// give no more. They depend on the seed and the prompt's number, not on the other prompts.
    pub fn draw(&mut self, prompts: &[&Asked]) -> Result<Vec<Vec<Part>>> {
        let mut found: Vec<Vec<String>> = vec![vec![]; prompts.len()];
        let mut drawn = vec![0; prompts.len()];
        for _ in 0..ROUNDS {
            let mut wanted: Vec<(usize, u32)> = vec![];
            for (place, prompt) in prompts.iter().enumerate() {
                let first =
                    self.settings.seed.wrapping_add(prompt.number.wrapping_mul(SEEDS)).wrapping_add(drawn[place]);
                let missing = (self.settings.count - found[place].len()) as u32;
                wanted.extend((0..missing).map(|more| (place, first.wrapping_add(more))));
                drawn[place] += missing;
            }
            if wanted.is_empty() {
                break;
            }
            for ((place, _), text) in wanted.iter().zip(self.texts(prompts, &wanted)?) {
                let is_new = found[*place].iter().all(|other| other.trim() != text.trim());
                if is_new && !text.trim().is_empty() {
                    found[*place].push(text);
                }
            }
        }
        let answers =
            |(prompt, texts): (&&Asked, Vec<String>)| texts.into_iter().map(|text| prompt.answer(text)).collect();
        Ok(prompts.iter().zip(found).map(answers).collect())
    }

    /// A text for each of `wanted`, the place of its prompt and its seed.
    fn texts(&mut self, prompts: &[&Asked], wanted: &[(usize, u32)]) -> Result<Vec<String>> {
        let Drawer { executor, generator, tokenizer, settings, draw, end_of_turn } = self;
        let of_turns: Vec<String> = settings.stops.iter().chain(end_of_turn.as_ref()).cloned().collect();
        let text = |&(place, _): &(usize, u32)| {
            let Asked { part, ids, .. } = prompts[place];
            let tokens = settings.tokens(ids.len())?;
            match part {
                Part::Text(_) => {
                    Continuation::new(tokenizer, tokens, &settings.stop_tokens, &settings.stops).after(tokenizer, ids)
                }
                Part::Messages(_) => Ok(Continuation::new(tokenizer, tokens, &settings.stop_tokens, &of_turns)),
            }
        };
        let mut texts = wanted.iter().map(text).collect::<Result<Vec<Continuation>>>()?;
        let limits = wanted.iter().map(|(place, _)| settings.tokens(prompts[*place].ids.len()));
        let limits = limits.collect::<Result<Vec<usize>>>()?;
        let request = |(&(place, seed), tokens): (&(usize, u32), usize)| Request {
            prompt: prompts[place].ids.clone(),
            tokens,
            seed,
            params: *draw,
            best: 0,
        };
        let mut requests = wanted.iter().zip(limits).map(request);
        generator.generate(executor.as_mut(), &mut requests, &mut |n, token| {
            texts[n].push(token)?;
            Ok(texts[n].finish().is_none())
        })?;
        let whole = |mut text: Continuation| {
            text.close(Finish::Length)?;
            Ok(text.text().to_string())
        };
        texts.into_iter().map(whole).collect()
    }
}
