//! `wgpt chat`: a conversation with a model through its chat template.

use super::examples::template_text;
use super::sample::settings::{Choices, Method, Settings};
use super::sample::{Files, stop_at_interrupt};
use super::{Global, console, typed};
use serde::Serialize;
use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use wgpt::data::chat_template::{ASSISTANT, ChatTemplate, Message};
use wgpt::data::tokenizer::Tokenizer;
use wgpt::error::{Error, Result};
use wgpt::executor::Executor;
use wgpt::fail;
use wgpt::generate::stop::{Continuation, Finish};
use wgpt::generate::{Generator, Request, SamplingParams};
use wgpt::graph::Quantisation;
use wgpt::models::network::Network;

#[derive(clap::Args)]
pub struct Chat {
    /// Model folder or GGUF file with a chat template, such as one that `wgpt sft` made, or ORG/NAME on the Hugging Face hub
    #[arg(long, required_unless_present = "adapter")]
    model: Option<PathBuf>,
    /// Folder of adapters on the model, from --lora or from peft; without --model, on the model that they are of
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// How matrices are kept on the device, in less memory than f32
    #[arg(long, value_enum)]
    base: Option<Quantisation>,
    /// Text of the system message; without it there is none
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Chat template: chatml, plain, lines, or a file [default: the model folder's]
    #[arg(long, value_name = "NAME|FILE")]
    template: Option<String>,
    /// Positions that the cache holds, of a model with rotary positions [default: the model's context, at most 4096]
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    #[command(flatten)]
    choices: Choices,
    /// Print one JSON object per answer: role, content, ids, log_probabilities, finish_reason
    #[arg(long)]
    json: bool,
}

/// A conversation under way.
struct Conversation {
    executor: Box<dyn Executor>,
    generator: Generator,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    settings: Settings,
    draw: SamplingParams,
    /// Positions of the model.
    context: usize,
    messages: Vec<Message>,
    json: bool,
    interrupted: Arc<AtomicBool>,
}

/// An answer as `--json` prints it.
#[derive(Serialize)]
struct Answer<'a> {
    role: &'static str,
    content: &'a str,
    ids: &'a [u32],
    log_probabilities: &'a [f32],
    finish_reason: Option<Finish>,
}

impl Chat {
    pub fn run(&self, global: &Global) -> Result<()> {
        self.choices.check()?;
        super::check_device(&global.device)?;
        let files = Files::open(global, (self.model.as_deref(), self.adapter.as_deref()), (self.context, self.base))?;
        files.config.must_decode("hold a conversation")?;
        let tokenizer = match &self.template {
            Some(template) => files.tokenizer.clone().with_chat_template(&template_text(template)?),
            None => files.tokenizer.clone(),
        };
        let Some(template) = tokenizer.chat_template()? else {
            let model =
                self.adapter.as_ref().or(self.model.as_ref()).map_or(String::new(), |p| p.display().to_string());
            fail!(Input, "{model} has no chat template: give one with --template chatml, plain, lines or FILE");
        };
        let vocabulary = tokenizer.vocabulary_size();
        let mut settings = self.choices.settle(&files.generation, &files.ends(), vocabulary)?;
        let Method::Draw(draw) = settings.method.clone() else {
            fail!(Usage, "--strategy beam is not for a conversation: leave it out, or use wgpt sample");
        };
        if settings.count > 1 {
            fail!(Usage, "--count {} is not for a conversation, where each message has one answer", settings.count);
        }
        settings.stops.extend(template.end_of_turn(|text| tokenizer.is_special(text))?);
        let mut executor = global.open()?;
        let network = Network::new(files.config);
        let generator = Generator::new(executor.as_mut(), &network, &files.weights, vocabulary, 1)?;
        drop(files.weights);
        let system = self.system.iter().map(|text| Message { role: "system".into(), content: text.clone() });
        let interrupted = Arc::new(AtomicBool::new(false));
        let mut conversation = Conversation {
            executor,
            generator,
            tokenizer,
            template,
            settings,
            draw,
            context: network.config().context,
            messages: system.collect(),
            json: self.json,
            interrupted: interrupted.clone(),
        };
        if std::io::stdin().is_terminal() {
            stop_at_interrupt(global, interrupted.clone());
            let hint = "Enter sends a message, Ctrl-C stops an answer, /reset begins again, Ctrl-D or /quit ends";
            return typed::lines(global, hint, &interrupted, &mut |_, line| conversation.take(global, line));
        }
        for line in std::io::stdin().lock().lines() {
            let line =
                line.map_err(|source| Error::Io { action: "read standard input as UTF-8 text".into(), source })?;
            if !line.trim().is_empty() {
                conversation.take(global, line)?;
            }
        }
        Ok(())
    }
}

impl Conversation {
    /// Answers a message, or begins again.
    fn take(&mut self, global: &Global, line: String) -> Result<()> {
        let kept = self.messages.len();
        if line.trim() == "/reset" {
            self.messages.retain(|message| message.role == "system");
            return Ok(());
        }
        self.messages.push(Message { role: "user".into(), content: line });
        match self.answer(global) {
            Ok(answer) => self.messages.push(Message { role: ASSISTANT.into(), content: answer }),
            Err(error) => {
                self.messages.truncate(kept);
                return Err(error);
            }
        }
        Ok(())
    }

    /// The tokens of the conversation, opened for an answer: the oldest messages but the system's are left out where there is no
    /// room for them.
    fn prompt(&mut self, global: &Global) -> Result<Vec<u32>> {
        loop {
            let ids = self.tokenizer.encode(&self.template.render(&self.messages, true)?)?;
            let oldest = self.messages.iter().position(|message| message.role != "system").unwrap_or(0);
            if ids.len() < self.context || self.messages.len() < oldest + 3 {
                return Ok(ids);
            }
            global
                .say("the conversation is longer than the model's context: its oldest message and answer are left out");
            self.messages.drain(oldest..oldest + 2);
        }
    }

    /// Generates and prints an answer.
    fn answer(&mut self, global: &Global) -> Result<String> {
        let ids = self.prompt(global)?;
        if ids.is_empty() {
            fail!(Input, "the chat template writes nothing for this conversation: use another with --template");
        }
        let Conversation { executor, generator, tokenizer, settings, draw, json, interrupted, .. } = self;
        let tokens = settings.tokens(ids.len())?;
        let mut text = Continuation::new(tokenizer, tokens, &settings.stop_tokens, &settings.stops);
        let mut shown = 0;
        let request = Request { prompt: ids, tokens, seed: settings.seed, params: *draw, best: 0 };
        generator.generate(executor.as_mut(), &mut std::iter::once(request), &mut |_, token| {
            text.push(token)?;
            if !*json {
                console::data(&text.text()[shown..])?;
                shown = text.text().len();
            }
            Ok(text.finish().is_none() && !interrupted.load(Ordering::SeqCst))
        })?;
        text.close(Finish::Length)?;
        // The token that ends a turn is no text of the answer.
        let content = text.text().to_string();
        if *json {
            let (ids, log_probabilities) = (text.ids(), text.log_probabilities());
            let answer =
                Answer { role: ASSISTANT, content: &content, ids, log_probabilities, finish_reason: text.finish() };
            console::line(serde_json::to_string(&answer).expect("numbers and texts always serialise"))?;
        } else {
            console::data(&format!("{}\n", &content[shown..]))?;
        }
        settings.seed = settings.seed.wrapping_add(1);
        Ok(content)
    }
}
