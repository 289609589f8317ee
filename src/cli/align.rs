//! `wgpt align`: trains a model on preferences.

use super::Global;
use super::examples::{ExampleFiles, check_validation, encoder, for_dialogues, longest};
use super::run::{Prepared, RunOptions, TRAINING, check_same, create_folder, merge, no_tokenizer, resumed};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use wgpt::data::dialogues::Encoded;
use wgpt::data::tokenizer::Tokenizer;
use wgpt::data::{lines, preferences};
use wgpt::error::Result;
use wgpt::fail;
use wgpt::formats::folder::Weights;
use wgpt::formats::source::ModelSource;
use wgpt::models::config::Config;
use wgpt::objectives::dpo::{Dpo, Pairs, RECIPE};
use wgpt::ops::preference_loss::{Form, PreferenceLoss};
use wgpt::train::settings::{Choices, Settings};

#[derive(clap::Args)]
pub struct Align {
    /// How the model is trained: dpo, direct preference optimisation
    #[arg(long, value_enum, default_value_t = Method::Dpo, help_heading = "Task")]
    method: Method,
    /// Model folder or GGUF file to start from, or ORG/NAME on the Hugging Face hub; without it, the small demo model that is built in
    #[arg(long, conflicts_with = "resume")]
    model: Option<PathBuf>,
    /// Folder for the model; its checkpoints and log go to training/ in it
    #[arg(long)]
    out: PathBuf,
    /// Preferences: .jsonl or .parquet with `chosen` and `rejected`, and optionally `prompt`, texts or lists of messages
    #[arg(long, required_unless_present = "resume", help_heading = "Data")]
    data: Option<PathBuf>,
    /// Preferences for validation: the model with the lowest loss is kept; without it, the last
    #[arg(long, help_heading = "Data")]
    val: Option<PathBuf>,
    /// Chat template: chatml, plain, lines, or a file [default: the model folder's]
    #[arg(long, value_name = "NAME|FILE", help_heading = "Data")]
    template: Option<String>,
    /// Tokens of prompt and answer, at most: longer pairs are dropped [default: 1024, or the model's context]
    #[arg(long, value_name = "N", help_heading = "Data")]
    max_length: Option<usize>,
    /// The loss of a pair [default: sigmoid]
    #[arg(long, value_enum, help_heading = "Task")]
    loss: Option<Form>,
    /// How near the model stays to the one it started from: larger is nearer [default: 0.1]
    #[arg(long, help_heading = "Task")]
    beta: Option<f32>,
    /// The share of preferences that are taken to be wrong, for --loss robust
    #[arg(long, value_name = "SHARE", help_heading = "Task")]
    label_smoothing: Option<f32>,
    /// Weight of the loss of chosen answers as in `wgpt sft` [default: 0]
    #[arg(long, value_name = "WEIGHT", help_heading = "Task")]
    sft_weight: Option<f32>,
    #[command(flatten)]
    choices: Choices,
    #[command(flatten)]
    options: RunOptions,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Method {
    Dpo,
}

/// What a checkpoint keeps of the command.
#[derive(Serialize, Deserialize)]
struct Arguments {
    #[serde(flatten)]
    files: ExampleFiles,
    longest: usize,
    loss: Form,
    beta: f32,
    smoothing: f32,
    sft: f32,
    /// The path of the model that the run started from, the reference; none of the built-in one.
    start: Option<PathBuf>,
    /// What the user chose of the run.
    choices: Value,
}

impl Align {
    pub fn run(&self, global: &Global) -> Result<()> {
        super::check_device(&global.device)?;
        if self.options.resume { self.resume(global) } else { self.start(global) }
    }

    fn start(&self, global: &Global) -> Result<()> {
        if self.data.is_none() {
            fail!(Usage, "a new run needs preferences: give --data");
        }
        check_validation(&self.choices, self.val.as_deref())?;
        let (loss, sft) = self.losses()?;
        let source = global.model(self.model.as_deref())?;
        let start = source.config()?;
        let weights = source.weights(&start)?;
        let config = self.choices.adapted(start.clone(), (&start, source.name()))?;
        let (config, tokenizer) = for_dialogues(&source, config, self.template.as_deref())?;
        let longest = longest(self.max_length, &config)?;
        let PreferenceLoss { form, beta, smoothing } = loss;
        let arguments = Arguments {
            files: ExampleFiles::new(self.data.as_slice(), self.val.as_deref())?,
            longest,
            loss: form,
            beta,
            smoothing,
            sft,
            start: source.name().map(PathBuf::from),
            choices: json!(self.choices),
        };
        let pairs = pairs(global, &arguments, &config, &tokenizer)?;
        let settings = self
            .choices
            .clone()
            .resolve(&RECIPE.for_adapters(&config), |batch| pairs.0.len().div_ceil(batch) as u64)?;
        settings.check_model(&config, config.trains_head())?;
        let reference = (start.clone(), source.weights(&start)?);
        let prepared =
            self.prepared(global, (settings.quantised(config), reference), settings, tokenizer, arguments, pairs);
        prepared.start(|| create_folder(&self.out, &self.options), Some(weights))
    }

    /// The loss of pairs, and the weight of that of chosen answers.
    fn losses(&self) -> Result<(PreferenceLoss, f32)> {
        let form = self.loss.unwrap_or(Form::Sigmoid);
        let (beta, smoothing) = (self.beta.unwrap_or(0.1), self.label_smoothing.unwrap_or(0.0));
        if !(beta.is_finite() && beta > 0.0) {
            fail!(Usage, "--beta {beta} is not a number above 0: give one");
        }
        if self.label_smoothing.is_some() && form != Form::Robust {
            fail!(Usage, "--label-smoothing is for --loss robust: leave it out, or add that");
        }
        if !(0.0..0.5).contains(&smoothing) {
            fail!(
                Usage,
                "--label-smoothing {smoothing} is no share of wrong preferences: give one from 0 to below 0.5"
            );
        }
        let sft = self.sft_weight.unwrap_or(0.0);
        if !(sft.is_finite() && sft >= 0.0) {
            fail!(Usage, "--sft-weight {sft} is not a number from 0 up: give one");
        }
        Ok((PreferenceLoss { form, beta, smoothing }, sft))
    }

    fn resume(&self, global: &Global) -> Result<()> {
        let mut resumed = resumed(global, (&self.out, TRAINING), "align", |objective| objective == "dpo")?;
        let (mut arguments, tokenizer): (Arguments, _) = resumed.kept()?;
        let tokenizer = tokenizer.ok_or_else(|| no_tokenizer(&self.out))?;
        if self.template.is_some() {
            let out = self.out.display();
            fail!(Usage, "--resume takes the chat template from the run in {out}: leave out --template");
        }
        let mut settings = resumed.state.settings.clone();
        let given = json!({
            "max_length": self.max_length, "loss": self.loss, "beta": self.beta, "label_smoothing": self.label_smoothing,
            "sft_weight": self.sft_weight,
        });
        let own = json!({
            "max_length": arguments.longest, "loss": arguments.loss, "beta": arguments.beta,
            "label_smoothing": arguments.smoothing, "sft_weight": arguments.sft,
        });
        let given = merge(given, json!(self.choices));
        check_same(&self.out, &given, &merge(own, arguments.choices.clone()), &settings)?;
        settings.steps = self.choices.steps.unwrap_or(settings.steps);
        arguments.files = arguments.files.moved(global, &self.options, (self.data.as_slice(), self.val.as_deref()))?;
        let config = settings.quantised(resumed.checkpoint.config.clone());
        let pairs = pairs(global, &arguments, &config, &tokenizer)?;
        let source = match &arguments.start {
            Some(path) if !path.exists() => {
                let path = path.display();
                fail!(
                    Input,
                    "the run started from the model in {path}, its reference, and nothing is there: put it back"
                )
            }
            Some(path) => ModelSource::open(path)?,
            None => wgpt::formats::demo::model(),
        };
        let start = source.config()?;
        let reference = (start.clone(), source.weights(&start)?);
        self.prepared(global, (config, reference), settings, tokenizer, arguments, pairs).resume(resumed)
    }

    fn prepared<'a>(
        &'a self,
        global: &'a Global,
        (config, reference): (Config, (Config, Weights)),
        settings: Settings,
        tokenizer: Tokenizer,
        arguments: Arguments,
        (training, validation): (Pairs, Pairs),
    ) -> Prepared<'a> {
        let out = self.out.display();
        let summary = format!("dpo: {} training, {} validation pairs", training.len(), validation.len());
        let title = format!("direct preference optimisation of {}", config.family);
        let hint = match config.lora {
            Some(_) => format!("adapters in {out}; try: wgpt chat --adapter {out}"),
            None => format!("model in {out}; try: wgpt chat --model {out}"),
        };
        let Arguments { loss: form, beta, smoothing, sft, .. } = arguments;
        let losses = (PreferenceLoss { form, beta, smoothing }, sft);
        Prepared {
            global,
            options: &self.options,
            command: "align",
            out: &self.out,
            best: PathBuf::new(),
            objective: Box::new(Dpo::new(config, &settings, losses, (training, validation), reference)),
            settings,
            tokenizer: Some(tokenizer),
            arguments: serde_json::to_value(arguments).expect("paths and numbers always serialise"),
            summary,
            title,
            hint,
        }
    }
}

/// Training and validation pairs, saying how many were dropped.
fn pairs(global: &Global, arguments: &Arguments, config: &Config, tokenizer: &Tokenizer) -> Result<(Pairs, Pairs)> {
    let template = tokenizer.chat_template()?;
    let encoder = encoder(config, tokenizer, template.as_ref());
    let longest = arguments.longest;
    let read = |path: &Path| {
        let (mut kept, mut dropped): (Vec<[Encoded; 2]>, usize) = (vec![], 0);
        for pair in preferences::read_pairs(path)? {
            let place = lines::place(path, pair.line);
            let encode = |form| encoder.encode(form).map_err(|error| error.in_place(&place));
            let answers = [encode(&pair.chosen)?, encode(&pair.rejected)?];
            if answers.iter().any(|answer| answer.ids.len() > longest || answer.targets() == 0) {
                dropped += 1;
            } else {
                kept.push(answers);
            }
        }
        let (all, path) = (kept.len() + dropped, path.display());
        if kept.is_empty() {
            fail!(Input, "every pair of {path} is longer than {longest} tokens: allow longer ones with --max-length");
        }
        if dropped > 0 {
            global.say(&format!(
                "warning: {dropped} of {all} pairs of {path} are longer than {longest} tokens and were dropped"
            ));
        }
        Ok(Pairs::new(kept))
    };
    let (data, validation) = arguments.files.places();
    Ok((read(data)?, validation.map_or(Ok(Pairs::default()), read)?))
}
