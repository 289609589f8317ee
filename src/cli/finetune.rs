//! `wgpt finetune`: trains a pre-trained model with a head on labelled data.

pub mod options;
pub mod tokens;

use super::Global;
use super::examples::{ExampleFiles, check_validation};
use super::run::{
    Prepared, RunOptions, TRAINING, check_same, create_folder, merge, no_tokenizer, resumed, with_tokens,
};
use options::{Columns, TaskOptions};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tokens::{Answers, Tags, Texts};
use wgpt::data::buckets::epoch_len;
use wgpt::data::labelled::sequences::{Encoder, Special};
use wgpt::data::labelled::target::{Target, form};
use wgpt::data::labelled::{self, Form, Task};
use wgpt::data::masking::EncoderTokens;
use wgpt::data::tokenizer::Tokenizer;
use wgpt::error::Result;
use wgpt::evaluate::metrics::Measure;
use wgpt::fail;
use wgpt::models::config::{Config, Heads};
use wgpt::objectives;
use wgpt::objectives::labelled::batch::Item;
use wgpt::objectives::labelled::class_weights::ClassWeights;
use wgpt::objectives::labelled::folder::TaskFile;
use wgpt::objectives::labelled::prepare::prepare;
use wgpt::objectives::labelled::{Labelled, Options, RECIPE};
use wgpt::train::settings::{Choices, Settings};

#[derive(clap::Args)]
pub struct Finetune {
    /// Model folder or GGUF file to start from, or ORG/NAME on the Hugging Face hub; without it, the small demo model that is built in
    #[arg(long, conflicts_with = "resume")]
    model: Option<PathBuf>,
    /// Folder for the fine-tuned model; its checkpoints and log go to training/ in it
    #[arg(long)]
    out: PathBuf,
    /// The task: classify, entail, similar or choose; or tag or answer, of an encoder
    #[arg(long, value_parser = kind_named, required_unless_present = "resume")]
    task: Option<Kind>,
    /// Labelled training data: .jsonl, .csv or .tsv with named columns; of tag .jsonl, or CoNLL's words and tags; of answer .jsonl,
    /// or SQuAD's .json
    #[arg(long, required_unless_present = "resume", help_heading = "Data")]
    data: Option<PathBuf>,
    /// Labelled validation data: the model of the best validation is kept; without it, the last
    #[arg(long, help_heading = "Data")]
    val: Option<PathBuf>,
    #[command(flatten)]
    columns: Columns,
    #[command(flatten)]
    task_options: TaskOptions,
    #[command(flatten)]
    choices: Choices,
    #[command(flatten)]
    options: RunOptions,
}

/// What is fine-tuned for.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// A head on whole texts.
    Labelled(Task),
    /// A head on words.
    Tag,
    /// A head on spans.
    Answer,
    /// Text to text.
    Text,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Labelled(task) => task.name(),
            Kind::Tag => objectives::tag::NAME,
            Kind::Answer => objectives::answer::NAME,
            Kind::Text => objectives::seq2seq::NAME,
        }
    }
}

fn kind_named(name: &str) -> std::result::Result<Kind, String> {
    match [Kind::Tag, Kind::Answer, Kind::Text].into_iter().find(|kind| kind.name() == name) {
        Some(kind) => Ok(kind),
        None => task_named(name).map(Kind::Labelled).map_err(|error| format!("{error}, tag, answer, text")),
    }
}

pub(super) fn task_named(name: &str) -> std::result::Result<Task, String> {
    Task::named(name).map_err(|error| error.to_string())
}

/// The command's own record in a checkpoint.
#[derive(Serialize, Deserialize)]
struct Arguments {
    task: TaskFile,
    #[serde(flatten)]
    files: ExampleFiles,
    lambda: f32,
    measure: Option<Measure>,
    buckets: usize,
    class_weights: ClassWeights,
    /// The user's choices of the task and the run.
    #[serde(default)]
    choices: Value,
}

impl Arguments {
    /// Options of the task as they were settled, by the names of their flags.
    fn settled(&self) -> Value {
        json!({"lambda": self.lambda, "buckets": self.buckets, "class_weights": self.class_weights,
            "metric": self.measure, "max_length": self.task.longest})
    }
}

impl Finetune {
    pub fn run(&self, global: &Global) -> Result<()> {
        super::check_device(&global.device)?;
        match self.task {
            _ if self.options.resume => self.resume(global),
            Some(Kind::Tag) => tokens::start::<Tags>(self, global),
            Some(Kind::Answer) => tokens::start::<Answers>(self, global),
            Some(Kind::Text) => tokens::start::<Texts>(self, global),
            Some(Kind::Labelled(task)) => self.start(task, global),
            None => fail!(Usage, "a new run needs a task and its data: give --task and --data"),
        }
    }

    fn start(&self, task: Task, global: &Global) -> Result<()> {
        let Some(data) = self.data.as_deref() else { fail!(Usage, "a new run needs its data: give --data") };
        check_validation(&self.choices, self.val.as_deref())?;
        let source = global.model(self.model.as_deref())?;
        let own = source.config()?;
        // An encoder keeps its pooler, and leaves the prediction of masked tokens behind.
        let weights = source.weights(&own.clone().with_heads(own.heads_of_encoder().shared(Heads::Pooler)))?;
        let (pretrained, tokenizer) = (own.with_heads(Heads::Pooler), source.tokenizer()?);
        let tokenizer = tokenizer.for_model(pretrained.vocab_size, &source.path(""))?;
        let columns = self.columns.names();
        let form = form(task, &columns)?;
        let examples = labelled::read(data, &form, true)?;
        let target = Target::of(task, self.task_options.grades, &examples, data)?;
        self.task_options.refuse_stride()?;
        self.task_options.refuse_prefix()?;
        let options = self.task_options.options();
        options.check(&target)?;
        if self.task_options.metric.is_some() && self.val.is_none() {
            fail!(Usage, "--metric chooses the best model by validation data: give --val, or leave it out");
        }
        let class_weights = self.task_options.class_weights.clone().unwrap_or(ClassWeights::Equal);
        class_weights.check(&target)?;
        let encoder = match pretrained.encoder {
            Some(_) => Some(EncoderTokens::needed(&tokenizer, "that of the model")?),
            None => None,
        };
        if encoder.is_some() && self.task_options.lambda.is_some_and(|lambda| lambda > 0.0) {
            fail!(Usage, "--lambda weighs a language model's loss, and an encoder is none: leave it out");
        }
        let (config, special) = match encoder {
            Some(EncoderTokens { first, separator, .. }) => {
                (pretrained.clone(), Special { start: first, delimiter: separator, extract: separator })
            }
            None => {
                let known = TaskFile::read(&source)?.and_then(|task| task.special);
                with_special(&pretrained, &tokenizer, known)?
            }
        };
        let config = self.choices.adapted(config, (&pretrained, source.name()))?;
        let recipe = RECIPE.for_adapters(&config);
        let settings = self
            .choices
            .clone()
            .resolve(&recipe.for_ranks(global.ranks.count()), |batch| epoch_len(examples.len(), batch))?;
        settings.check_model(&pretrained, true)?;
        if config.lora.is_some() && self.task_options.from_scratch {
            fail!(Usage, "--from-scratch has no weights that adapters could be on: leave it or --lora out");
        }
        let longest = self.longest(&config)?;
        let tokenizer = if encoder.is_none() { tokenizer.framed(special.start, longest)? } else { tokenizer };
        let (pad, separator) = (encoder.map(|tokens| tokens.pad), encoder.map(|tokens| tokens.separator));
        let task = TaskFile { task, target, special: Some(special), longest, columns, pad, separator };
        let Options { lambda, measure, buckets } = options;
        let arguments = Arguments {
            task,
            files: ExampleFiles::new(self.data.as_slice(), self.val.as_deref())?,
            lambda,
            measure,
            buckets,
            class_weights,
            choices: self.given(),
        };
        let prepared = self.prepared(global, settings.quantised(config), settings, tokenizer, arguments)?;
        let weights = (!self.task_options.from_scratch).then_some(weights);
        prepared.start(|| create_folder(&self.out, &self.options), weights)
    }

    fn resume(&self, global: &Global) -> Result<()> {
        let is_task = |name: &str| kind_named(name).is_ok();
        let mut resumed = resumed(global, (&self.out, TRAINING), "finetune", is_task)?;
        if let Some(task) = self.task.filter(|task| task.name() != resumed.state.objective) {
            let own = &resumed.state.objective;
            fail!(Usage, "--resume goes on with --task {own}, not {}: leave it out", task.name());
        }
        match kind_named(&resumed.state.objective) {
            Ok(Kind::Tag) => return tokens::resume::<Tags>(self, global, resumed),
            Ok(Kind::Answer) => return tokens::resume::<Answers>(self, global, resumed),
            Ok(Kind::Text) => return tokens::resume::<Texts>(self, global, resumed),
            _ => {}
        }
        let (mut arguments, tokenizer): (Arguments, _) = resumed.kept()?;
        let tokenizer = tokenizer.ok_or_else(|| no_tokenizer(&self.out))?;
        let mut settings = resumed.state.settings.clone();
        check_same(&self.out, &self.given(), &merge(arguments.settled(), arguments.choices.clone()), &settings)?;
        settings.steps = self.choices.steps.unwrap_or(settings.steps);
        arguments.files = arguments.files.moved(global, &self.options, (self.data.as_slice(), self.val.as_deref()))?;
        let config = settings.quantised(resumed.checkpoint.config.clone());
        self.prepared(global, config, settings, tokenizer, arguments)?.resume(resumed)
    }

    /// What flags say of the task and the run.
    fn given(&self) -> Value {
        merge(merge(json!(self.task_options), json!(self.columns.names())), json!(self.choices))
    }

    /// Tokens of a sequence, at most.
    fn longest(&self, config: &Config) -> Result<usize> {
        let Some(longest) = self.task_options.max_length else { return Ok(config.context) };
        if !(5..=config.context).contains(&longest) {
            let context = config.context;
            fail!(Usage, "--max-length {longest} must be from 5 to {context}, the model's context");
        }
        Ok(longest)
    }

    fn prepared<'a>(
        &'a self,
        global: &'a Global,
        config: Config,
        settings: Settings,
        tokenizer: Tokenizer,
        arguments: Arguments,
    ) -> Result<Prepared<'a>> {
        let TaskFile { task, special, longest, .. } = arguments.task;
        let form = form(task, &arguments.task.columns)?;
        let is_encoder = config.encoder.is_some();
        let encoder = Encoder { tokenizer: &tokenizer, task, special, longest, pad: None, is_encoder };
        let (data, validation) = arguments.files.places();
        let read = |path: &Path| items(global, &encoder, &form, &arguments.task.target, path);
        let mut training = read(data)?;
        arguments.class_weights.apply(&arguments.task.target, &mut training)?;
        let validation = validation.map_or(Ok(vec![]), read)?;
        let (name, counts) = (task.name(), (training.len(), validation.len()));
        let family = config.family;
        let Arguments { lambda, measure, buckets, .. } = arguments;
        let options = Options { lambda, measure, buckets };
        let objective = Labelled::new(config, arguments.task.clone(), &options, &settings, (training, validation));
        let out = self.out.display();
        Ok(Prepared {
            global,
            options: &self.options,
            command: "finetune",
            out: &self.out,
            best: PathBuf::new(),
            title: format!("{name} on {family}"),
            hint: format!("model in {out}; try: wgpt predict --model {out} --data FILE"),
            summary: format!(
                "{name}: {} training, {} validation examples, padded to {:?} tokens",
                counts.0,
                counts.1,
                objective.lengths()
            ),
            objective: Box::new(objective),
            settings,
            tokenizer: Some(tokenizer),
            arguments: serde_json::to_value(arguments).expect("paths and numbers always serialise"),
        })
    }
}

/// The model's shape with the added tokens, and those, which come after the tokenizer's; a model that has some keeps them.
fn with_special(pretrained: &Config, tokenizer: &Tokenizer, known: Option<Special>) -> Result<(Config, Special)> {
    let special = known.unwrap_or_else(|| Special::after(tokenizer.full_vocabulary_size()));
    Ok((with_tokens(pretrained, special.extract)?, special))
}

/// A file's rows, ready to be fed.
fn items(global: &Global, encoder: &Encoder, form: &Form, target: &Target, path: &Path) -> Result<Vec<Item>> {
    let prepared = prepare(encoder, target, &labelled::read(path, form, true)?, path)?;
    if prepared.cut > 0 {
        let (cut, all, longest) = (prepared.cut, prepared.items.len(), encoder.longest);
        global.say(&format!(
            "warning: {cut} of {all} rows of {} are longer than {longest} tokens and were cut",
            path.display()
        ));
    }
    Ok(prepared.items)
}
