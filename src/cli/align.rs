//! `wgpt align`: trains a model on preferences or rewards, by one of the methods in `align/`.

mod dpo;
mod grpo;
mod kto;
mod ppo;
mod rejection;
mod rollouts;

use super::Global;
use super::examples::{ExampleFiles, check_validation, for_dialogues, longest};
use super::run::{Prepared, RunOptions, TRAINING, check_same, create_folder, merge, no_tokenizer, resumed};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use wgpt::data::tokenizer::Tokenizer;
use wgpt::error::Result;
use wgpt::fail;
use wgpt::formats::folder::Weights;
use wgpt::formats::source::ModelSource;
use wgpt::models::config::Config;
use wgpt::train::objective::Objective;
use wgpt::train::settings::{Choices, Recipe, Settings};

#[derive(clap::Args)]
pub struct Align {
    /// How the model is trained [default: dpo]
    #[arg(long, value_enum, help_heading = "Task")]
    method: Option<Method>,
    /// Model folder or GGUF file to start from, or ORG/NAME on the Hugging Face hub; without it, the small demo model that is built in
    #[arg(long, conflicts_with = "resume")]
    model: Option<PathBuf>,
    /// Folder for the model; its checkpoints and log go to training/ in it
    #[arg(long)]
    out: PathBuf,
    /// Rows to train on, .jsonl or .parquet: for dpo `chosen` and `rejected`, and optionally `prompt`; for kto `prompt`, `completion`
    /// and `label`, true or false; for the others `prompt`, and what the reward is made from; texts or lists of messages
    #[arg(long, required_unless_present = "resume", help_heading = "Data")]
    data: Option<PathBuf>,
    /// Rows for validation: the best model is kept; without it, the last
    #[arg(long, help_heading = "Data")]
    val: Option<PathBuf>,
    /// Chat template: chatml, plain, lines, or a file [default: the model folder's]
    #[arg(long, value_name = "NAME|FILE", help_heading = "Data")]
    template: Option<String>,
    /// Tokens of prompt and answer, at most: longer rows are dropped, of kto cut [default: 1024, or the model's context]
    #[arg(long, value_name = "N", help_heading = "Data")]
    max_length: Option<usize>,
    /// How near the model stays to the one it started from: larger is nearer [default: dpo and kto 0.1, grpo 0, rloo and ppo 0.05]
    #[arg(long, help_heading = "Task")]
    beta: Option<f32>,
    #[command(flatten)]
    dpo: dpo::DpoOptions,
    #[command(flatten)]
    kto: kto::KtoOptions,
    #[command(flatten)]
    rollouts: rollouts::RollOutOptions,
    #[command(flatten)]
    clip: rollouts::ClipOptions,
    #[command(flatten)]
    rejection: rejection::RejectionOptions,
    #[command(flatten)]
    grpo: grpo::GrpoOptions,
    #[command(flatten)]
    ppo: ppo::PpoFlags,
    #[command(flatten)]
    choices: Choices,
    #[command(flatten)]
    options: RunOptions,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Method {
    /// Direct preference optimisation: pairs of answers, without a reward model
    Dpo,
    /// Kahneman-Tversky optimisation: answers that are each good or not, without a reward model
    Kto,
    /// Rejection sampling: in each round the best of several answers of the model's own are learned
    Rejection,
    /// Group relative policy optimisation: answers of the model's own, with rewards
    Grpo,
    /// REINFORCE with the other answers to a prompt as the baseline
    Rloo,
    /// Proximal policy optimisation: answers of the model's own, with rewards and a critic
    Ppo,
}

impl Method {
    fn name(self) -> String {
        json!(self).as_str().expect("a name").into()
    }
}

/// What a checkpoint keeps of the command.
#[derive(Serialize, Deserialize)]
struct Arguments {
    #[serde(flatten)]
    files: ExampleFiles,
    method: Method,
    longest: usize,
    /// The method's own options, resolved.
    own: Value,
    /// The path of the model that the run started from, the reference; none of the built-in one.
    start: Option<PathBuf>,
    /// What the user chose of the run.
    choices: Value,
}

/// What a method reads its rows with.
struct Context<'a> {
    global: &'a Global,
    data: &'a Path,
    validation: Option<&'a Path>,
    longest: usize,
    config: &'a Config,
    tokenizer: &'a Tokenizer,
}

/// A method with its rows.
trait Rows {
    /// Its defaults of a run.
    fn recipe(&self) -> Recipe;

    /// Micro-batches of so many examples in a pass over the rows.
    fn epoch(&self, batch: usize) -> u64;

    /// The number of rows, for people.
    fn summary(&self) -> String;

    /// What the method is called in a plot's title.
    fn title(&self) -> &'static str;

    /// The objective; `start` is the model that the run started from.
    fn objective(
        self: Box<Self>,
        config: Config,
        settings: &Settings,
        start: &ModelSource,
    ) -> Result<Box<dyn Objective>>;
}

impl Align {
    pub fn run(&self, global: &Global) -> Result<()> {
        super::check_device(&global.device)?;
        if self.options.resume { self.resume(global) } else { self.start(global) }
    }

    /// The method's own options, with its defaults; those of other methods are refused.
    fn own(&self, method: Method) -> Result<Value> {
        let has_policy_loss = matches!(method, Method::Grpo | Method::Rloo | Method::Ppo);
        let draws = has_policy_loss || method == Method::Rejection;
        if let (Method::Rejection, Some(_)) = (method, self.beta) {
            fail!(Usage, "--beta is not for --method rejection, whose loss knows no reference: leave it out");
        }
        let others = [
            (method == Method::Dpo, json!(self.dpo), "dpo"),
            (method == Method::Kto, json!(self.kto), "kto"),
            (draws, json!(self.rollouts), "rejection, grpo, rloo or ppo"),
            (has_policy_loss, json!(self.clip), "grpo, rloo or ppo"),
            (method == Method::Rejection, json!(self.rejection), "rejection"),
            (method == Method::Grpo, json!(self.grpo), "grpo"),
            (method == Method::Ppo, json!(self.ppo), "ppo"),
        ];
        for (is_own, options, methods) in others {
            let given = options.as_object().into_iter().flatten().find(|(_, value)| !value.is_null());
            if let (false, Some((name, _))) = (is_own, given) {
                fail!(Usage, "--{} is for --method {methods}: leave it out, or choose that", name.replace('_', "-"));
            }
        }
        let own = match method {
            Method::Dpo => json!(self.dpo.resolved(self.beta)?),
            Method::Kto => json!(self.kto.resolved(self.beta)?),
            Method::Rejection => json!(self.rejection.resolved(self.val.is_some())?),
            Method::Grpo | Method::Rloo => json!(self.grpo.resolved(method == Method::Rloo, self.beta)?),
            Method::Ppo => json!(self.ppo.resolved(self.beta)?),
        };
        let clip = if has_policy_loss { json!(self.clip.resolved()?) } else { json!({}) };
        let drawn = if draws { json!(self.rollouts.resolved(method != Method::Ppo)?) } else { json!({}) };
        Ok([drawn, clip].into_iter().fold(own, merge))
    }

    /// The method's own options as the user gave them.
    fn given(&self) -> Value {
        let options = [
            json!(self.kto),
            json!(self.rollouts),
            json!(self.clip),
            json!(self.rejection),
            json!(self.grpo),
            json!(self.ppo),
            json!({"beta": self.beta, "method": self.method}),
        ];
        options.into_iter().fold(json!(self.dpo), merge)
    }

    fn start(&self, global: &Global) -> Result<()> {
        let Some(data) = &self.data else { fail!(Usage, "a new run needs rows to train on: give --data") };
        check_validation(&self.choices, self.val.as_deref())?;
        let method = self.method.unwrap_or(Method::Dpo);
        let own = self.own(method)?;
        let source = global.model(self.model.as_deref())?;
        let start = source.config()?;
        let weights = source.weights(&start)?;
        let config = self.choices.adapted(start.clone(), (&start, source.name()))?;
        let (config, tokenizer) = for_dialogues(&source, config, self.template.as_deref())?;
        let longest = longest(self.max_length, &config)?;
        let arguments = Arguments {
            files: ExampleFiles::new(std::slice::from_ref(data), self.val.as_deref())?,
            method,
            longest,
            own,
            start: source.name().map(PathBuf::from),
            choices: json!(self.choices),
        };
        let rows = rows(global, &arguments, &config, &tokenizer)?;
        let recipe = rows.recipe().for_adapters(&config);
        let settings =
            self.choices.clone().resolve(&recipe.for_ranks(global.ranks.count()), |batch| rows.epoch(batch))?;
        settings.check_model(&config, config.trains_head())?;
        let config = settings.quantised(config);
        let prepared = self.prepared(global, (config, &source), settings, tokenizer, arguments, rows)?;
        prepared.start(|| create_folder(&self.out, &self.options), Some(weights))
    }

    fn resume(&self, global: &Global) -> Result<()> {
        let mut resumed = resumed(global, (&self.out, TRAINING), "align", |objective| {
            <Method as clap::ValueEnum>::value_variants().iter().any(|method| method.name() == objective)
        })?;
        let (mut arguments, tokenizer): (Arguments, _) = resumed.kept()?;
        let tokenizer = tokenizer.ok_or_else(|| no_tokenizer(&self.out))?;
        if self.template.is_some() {
            let out = self.out.display();
            fail!(Usage, "--resume takes the chat template from the run in {out}: leave out --template");
        }
        let mut settings = resumed.state.settings.clone();
        let given = merge(self.given(), json!({"max_length": self.max_length}));
        let own = merge(arguments.own.clone(), json!({"max_length": arguments.longest, "method": arguments.method}));
        let given = merge(given, json!(self.choices));
        check_same(&self.out, &given, &merge(own, arguments.choices.clone()), &settings)?;
        settings.steps = self.choices.steps.unwrap_or(settings.steps);
        arguments.files = arguments.files.moved(global, &self.options, (self.data.as_slice(), self.val.as_deref()))?;
        let config = settings.quantised(resumed.checkpoint.config.clone());
        let rows = rows(global, &arguments, &config, &tokenizer)?;
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
        self.prepared(global, (config, &source), settings, tokenizer, arguments, rows)?.resume(resumed)
    }

    fn prepared<'a>(
        &'a self,
        global: &'a Global,
        (config, start): (Config, &ModelSource),
        settings: Settings,
        tokenizer: Tokenizer,
        arguments: Arguments,
        rows: Box<dyn Rows>,
    ) -> Result<Prepared<'a>> {
        let out = self.out.display();
        let summary = format!("{}: {}", arguments.method.name(), rows.summary());
        let title = format!("{} of {}", rows.title(), config.family);
        let command = if tokenizer.chat_template()?.is_some() { "chat" } else { "sample" };
        let hint = match config.lora {
            Some(_) => format!("adapters in {out}; try: wgpt {command} --adapter {out}"),
            None => format!("model in {out}; try: wgpt {command} --model {out}"),
        };
        Ok(Prepared {
            global,
            options: &self.options,
            command: "align",
            out: &self.out,
            best: PathBuf::new(),
            objective: rows.objective(config, &settings, start)?,
            settings,
            tokenizer: Some(tokenizer),
            arguments: serde_json::to_value(arguments).expect("paths and numbers always serialise"),
            summary,
            title,
            hint,
        })
    }
}

/// The method of a run, with its rows.
fn rows(global: &Global, arguments: &Arguments, config: &Config, tokenizer: &Tokenizer) -> Result<Box<dyn Rows>> {
    let (data, validation) = arguments.files.places();
    let context = Context { global, data, validation, longest: arguments.longest, config, tokenizer };
    match arguments.method {
        Method::Dpo => dpo::read(&arguments.own, &context),
        Method::Kto => kto::read(&arguments.own, &context),
        Method::Rejection => rejection::read(&arguments.own, &context),
        Method::Grpo | Method::Rloo => grpo::read(&arguments.own, arguments.method == Method::Rloo, &context),
        Method::Ppo => ppo::read(&arguments.own, &context),
    }
}

/// What a checkpoint keeps of a method's options, as the method has them.
fn kept<T: serde::de::DeserializeOwned>(own: &Value) -> Result<T> {
    serde_json::from_value(own.clone())
        .map_err(|why| wgpt::error::Error::Input(format!("trainer.json is damaged ({why}): start a new run")))
}

/// A model as a reference.
fn reference(source: &ModelSource) -> Result<(Config, Weights)> {
    let config = source.config()?;
    let weights = source.weights(&config)?;
    Ok((config, weights))
}

/// A number above 0 of a flag.
fn positive(flag: &str, value: f32) -> Result<f32> {
    if !(value.is_finite() && value > 0.0) {
        fail!(Usage, "--{flag} {value} is not a number above 0: give one");
    }
    Ok(value)
}
