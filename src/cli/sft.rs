//! `wgpt sft`: supervised fine-tuning on dialogues, prompts with completions, or texts.

use super::examples::{
    ExampleFiles, check_mix, check_same_template, check_validation, encoder, files, for_dialogues, longest,
};
use super::run::{Prepared, RunOptions, TRAINING, check_same, create_folder, merge, no_tokenizer, resumed};
use super::{Global, console};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use wgpt::data::dialogues::{self, Encoded, Encoder};
use wgpt::data::lines;
use wgpt::data::tokenizer::Tokenizer;
use wgpt::error::Result;
use wgpt::fail;
use wgpt::models::config::Config;
use wgpt::objectives::sft::{RECIPE, Rows, Sft};
use wgpt::train::settings::{Choices, Settings};

#[derive(clap::Args)]
pub struct FineTune {
    /// Model folder or GGUF file to start from, or ORG/NAME on the Hugging Face hub; without it, the small demo model that is built in
    #[arg(long, conflicts_with = "resume")]
    model: Option<PathBuf>,
    /// Folder for the model; its checkpoints and log go to training/ in it
    #[arg(long)]
    out: PathBuf,
    /// Examples: a .jsonl or .parquet file with `messages`, `prompt` and `completion`, or `text` in each row, or a folder of them; may
    /// be given several times
    #[arg(long, required_unless_present = "resume", value_name = "FILE|DIR", help_heading = "Data")]
    data: Vec<PathBuf>,
    /// Shares of several --data among the examples of a pass, such as 2,1: the examples of a source that is too small for its share
    /// come again [default: each example once]
    #[arg(long, value_name = "SHARES", value_delimiter = ',', help_heading = "Data")]
    mix: Vec<f64>,
    /// Examples for validation: the model with the lowest loss is kept; without them, the last
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    val: Option<PathBuf>,
    /// Chat template: chatml, plain, lines, or a file [default: the model folder's]
    #[arg(long, value_name = "NAME|FILE", help_heading = "Data")]
    template: Option<String>,
    /// Tokens of an example, at most: longer examples are cut at their end [default: 1024, or the model's context]
    #[arg(long, help_heading = "Data")]
    max_length: Option<usize>,
    /// Put several short examples in one row of --max-length tokens, each seen by itself: less padding
    #[arg(long, help_heading = "Data")]
    packing: bool,
    #[command(flatten)]
    choices: Choices,
    #[command(flatten)]
    options: RunOptions,
}

/// The command's record in a checkpoint.
#[derive(Serialize, Deserialize)]
struct Arguments {
    #[serde(flatten)]
    files: ExampleFiles,
    longest: usize,
    #[serde(default)]
    packing: bool,
    #[serde(default)]
    mix: Vec<f64>,
    /// The user's choices of the run.
    choices: Value,
}

impl Arguments {
    /// The length of rows that hold several examples.
    fn packed(&self) -> Option<usize> {
        self.packing.then_some(self.longest)
    }
}

impl FineTune {
    pub fn run(&self, global: &Global) -> Result<()> {
        super::check_device(&global.device)?;
        if self.options.resume { self.resume(global) } else { self.start(global) }
    }

    fn start(&self, global: &Global) -> Result<()> {
        if self.data.is_empty() {
            fail!(Usage, "a new run needs examples: give --data");
        }
        check_mix(&self.mix, self.data.len())?;
        check_validation(&self.choices, self.val.as_deref())?;
        let source = global.model(self.model.as_deref())?;
        let config = source.config()?;
        let weights = source.weights(&config)?;
        let config = self.choices.adapted(config.clone(), (&config, source.name()))?;
        let (config, tokenizer) = for_dialogues(&source, config, self.template.as_deref())?;
        let longest = longest(self.max_length, &config)?;
        let files = ExampleFiles::new(&self.data, self.val.as_deref())?;
        let (packing, mix) = (self.packing, self.mix.clone());
        let arguments = Arguments { files, longest, packing, mix, choices: json!(self.choices) };
        let (training, held_out) = examples(global, &arguments, &config, &tokenizer)?;
        show(global, &training.examples()[0], &tokenizer)?;
        let settings =
            self.choices.clone().resolve(&RECIPE.for_adapters(&config).for_ranks(global.ranks.count()), |batch| {
                training.len().div_ceil(batch) as u64
            })?;
        settings.check_model(&config, config.trains_head())?;
        let prepared =
            self.prepared(global, settings.quantised(config), settings, tokenizer, arguments, (training, held_out));
        prepared.start(|| create_folder(&self.out, &self.options), Some(weights))
    }

    fn resume(&self, global: &Global) -> Result<()> {
        let mut resumed = resumed(global, (&self.out, TRAINING), "sft", |objective| objective == "sft")?;
        let (mut arguments, tokenizer): (Arguments, _) = resumed.kept()?;
        let tokenizer = tokenizer.ok_or_else(|| no_tokenizer(&self.out))?;
        check_same_template(&self.out, self.template.as_deref(), &tokenizer)?;
        let mut settings = resumed.state.settings.clone();
        let mix = (!self.mix.is_empty()).then_some(&self.mix);
        let given = json!({"max_length": self.max_length, "packing": self.packing, "mix": mix});
        let given = merge(given, json!(self.choices));
        let own = json!({"max_length": arguments.longest, "packing": arguments.packing, "mix": arguments.mix});
        check_same(&self.out, &given, &merge(own, arguments.choices.clone()), &settings)?;
        settings.steps = self.choices.steps.unwrap_or(settings.steps);
        arguments.files = arguments.files.moved(global, &self.options, (&self.data, self.val.as_deref()))?;
        let config = settings.quantised(resumed.checkpoint.config.clone());
        let examples = examples(global, &arguments, &config, &tokenizer)?;
        self.prepared(global, config, settings, tokenizer, arguments, examples).resume(resumed)
    }

    fn prepared<'a>(
        &'a self,
        global: &'a Global,
        config: Config,
        settings: Settings,
        tokenizer: Tokenizer,
        arguments: Arguments,
        (training, validation): (Rows, Rows),
    ) -> Prepared<'a> {
        let out = self.out.display();
        let learned: usize = training.examples().iter().map(Encoded::targets).sum();
        let (examples, of_validation) = (training.examples().len(), validation.examples().len());
        let packed = arguments.packed();
        let rows = packed.map_or(String::new(), |length| format!(" in {} rows of {length} tokens", training.len()));
        let summary = format!(
            "sft: {examples} training, {of_validation} validation examples{rows}; {learned} tokens are learned"
        );
        let title = format!("supervised fine-tuning of {}", config.family);
        let hint = match config.lora {
            Some(_) => format!("adapters in {out}; try: wgpt chat --adapter {out}"),
            None => format!("model in {out}; try: wgpt chat --model {out}"),
        };
        Prepared {
            global,
            options: &self.options,
            command: "sft",
            out: &self.out,
            best: PathBuf::new(),
            objective: Box::new(Sft::new(config, &settings, (training, validation))),
            settings,
            tokenizer: Some(tokenizer),
            arguments: serde_json::to_value(arguments).expect("paths and numbers always serialise"),
            summary,
            title,
            hint,
        }
    }
}

/// Training and validation examples; those that were cut or dropped are counted in warnings.
fn examples(global: &Global, arguments: &Arguments, config: &Config, tokenizer: &Tokenizer) -> Result<(Rows, Rows)> {
    let template = tokenizer.chat_template()?;
    let encoder = encoder(config, tokenizer, template.as_ref());
    let mut sources = vec![];
    for source in arguments.files.sources() {
        let mut kept = vec![];
        for file in files(source)? {
            kept.extend(encoded(global, &encoder, arguments.longest, &file)?);
        }
        sources.push(kept);
    }
    let training = dialogues::mixed(sources, &arguments.mix)?;
    let validation = arguments.files.places().1;
    let held_out = validation.map_or(Ok(vec![]), |path| encoded(global, &encoder, arguments.longest, path))?;
    Ok((Rows::new(training, arguments.packed()), Rows::new(held_out, arguments.packed())))
}

/// The examples of a file that have something to learn.
fn encoded(global: &Global, encoder: &Encoder, longest: usize, path: &Path) -> Result<Vec<Encoded>> {
    let (mut kept, mut cut, mut dropped, mut parted, mut all) = (vec![], 0, 0, 0, 0);
    for example in dialogues::read(path)? {
        let place = lines::place(path, example.line);
        let mut encoded = encoder.encode(&example.form).map_err(|error| error.in_place(&place))?;
        all += 1;
        parted += usize::from(encoded.parted);
        cut += usize::from(encoded.cut(longest));
        if encoded.targets() == 0 {
            dropped += 1;
        } else {
            kept.push(encoded);
        }
    }
    let warn = |count: usize, what: &str| {
        if count > 0 {
            global.say(&format!("warning: {count} of {all} examples {what}"));
        }
    };
    warn(cut, &format!("are longer than {longest} tokens and were cut"));
    warn(dropped, "have no token left that is learned and were dropped");
    warn(parted, "have tokens across the border of prompt and answer, which are learned");
    if all > 0 && kept.is_empty() {
        fail!(Input, "no example has a token that is learned within {longest} tokens: allow more with --max-length");
    }
    Ok(kept)
}

/// Shows an example: learned tokens are green on a terminal, and in brackets elsewhere.
fn show(global: &Global, example: &Encoded, tokenizer: &Tokenizer) -> Result<()> {
    let (open, close) = if console::shows_messages() { ("\x1b[32m", "\x1b[0m") } else { ("[", "]") };
    let (mut text, mut at) = (String::new(), 0);
    for run in example.learned.chunk_by(|a, b| a == b) {
        let part = tokenizer.decode(&example.ids[at..at + run.len()])?;
        at += run.len();
        text += &if run[0] { format!("{open}{part}{close}") } else { part };
    }
    let how = if console::shows_messages() { "green" } else { "[in brackets]" };
    global.say(&format!("the first example; learned tokens are {how}:\n{text}"));
    Ok(())
}
