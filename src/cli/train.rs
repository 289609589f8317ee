//! `wgpt train`: pretrains a model.

mod material;
mod sweep;

use super::Global;
use super::run::{Prepared, RunOptions, check_same, merge, resumed};
use super::shares::Portion;
use material::{Material, Named, Place, model_config, open_material};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use sweep::Swept;
use wgpt::data::corpus::DataDigest;
use wgpt::data::masking::Masking;
use wgpt::data::source::Extensions;
use wgpt::data::span_corruption::{Lengths, Sentinels};
use wgpt::data::tokenizer::{FILE_NAME, Tokenizer};
use wgpt::error::{Error, Result};
use wgpt::fail;
use wgpt::formats::source::ModelSource;
use wgpt::models::choices::ModelChoices;
use wgpt::models::config::Config;
use wgpt::objectives::masked::{self, Masked};
use wgpt::objectives::pretrain::Pretrain;
use wgpt::objectives::recipe::PresetRecipe;
use wgpt::objectives::segments::{self, Segments};
use wgpt::objectives::span::{self, Span};
use wgpt::train::checkpoint::RunFolder;
use wgpt::train::objective::Objective;
use wgpt::train::run::absolute;
use wgpt::train::settings::{Choices, Settings, merged};

/// The names of the objectives.
const OBJECTIVES: [&str; 4] = ["pretraining", masked::NAME, segments::NAME, span::NAME];
/// The paper's share of masked tokens.
const MASK_SHARE: f32 = 0.15;

#[derive(Clone, clap::Args)]
pub struct Train {
    /// Folder for the model, checkpoints, log and plot
    #[arg(long)]
    out: PathBuf,
    /// A file of text, .jsonl (with a text field) or .bin token shards, or a folder of them [default: the built-in stories];
    /// with --resume: where the same data is now. Several with shares are a mixture: --data books/=0.6 --data web/=0.4
    #[arg(long, value_name = "DATA[=SHARE]", help_heading = "Data")]
    data: Vec<String>,
    /// Extensions of the files that a folder is searched for, such as md,py [default: txt,jsonl,parquet,bin]
    #[arg(long, value_name = "LIST", requires = "data", help_heading = "Data")]
    ext: Option<Extensions>,
    /// Validation data [default: files beside the data that are called val, or else the last tenth of it]
    #[arg(long, help_heading = "Data")]
    val: Option<PathBuf>,
    /// A TOML file with any of the choices of model, optimiser and run; flags win over it
    #[arg(long)]
    config: Option<PathBuf>,
    /// Start from the model in this folder or GGUF file, or ORG/NAME on the Hugging Face hub
    #[arg(long, help_heading = "Model")]
    init: Option<PathBuf>,
    /// Train once with each of these values of a setting, such as lr=1e-3,3e-3, in folders in --out; given several times, with every
    /// combination
    #[arg(long, value_name = "SETTING=VALUES", help_heading = "Sweep")]
    sweep: Vec<Swept>,
    /// Train with so many seeds each, from --seed on
    #[arg(long, value_name = "N", help_heading = "Sweep")]
    seeds: Option<u64>,
    #[command(flatten)]
    model: ModelChoices,
    #[command(flatten)]
    choices: Choices,
    #[command(flatten)]
    options: RunOptions,
}

/// The command's own record in a checkpoint.
#[derive(Serialize, Deserialize)]
struct Arguments {
    data: Option<PathBuf>,
    /// Sources of a mixture and their shares, in place of `data`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    mixture: Vec<(PathBuf, f64)>,
    validation: Option<PathBuf>,
    /// Tokens per sequence.
    context: usize,
    #[serde(default)]
    extensions: Option<Extensions>,
    /// The user's choices of the model and the run.
    #[serde(default)]
    choices: Value,
    /// Tells the data from other data.
    #[serde(default)]
    digest: Option<DataDigest>,
    /// Of an encoder: the share of masked tokens, and whether whole words are masked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    masks: Option<(f32, bool)>,
}

impl Arguments {
    /// The data, as it is given.
    fn portions(&self) -> Vec<Portion> {
        let one = self.data.iter().map(|path| Portion { path: path.clone(), share: None });
        one.chain(self.mixture.iter().map(|(path, share)| Portion { path: path.clone(), share: Some(*share) }))
            .collect()
    }
}

/// The data of a run, as its checkpoints keep it.
fn kept(portions: &[Portion]) -> (Option<PathBuf>, Vec<(PathBuf, f64)>) {
    let one = portions.iter().find(|portion| portion.share.is_none()).map(|portion| absolute(&portion.path));
    let mixture = portions.iter().filter_map(|portion| Some((absolute(&portion.path), portion.share?)));
    (one, mixture.collect())
}

impl Train {
    pub fn run(&self, global: &Global) -> Result<()> {
        super::check_device(&global.device)?;
        if self.is_sweep() {
            return self.sweep(global);
        }
        if self.options.resume && self.init.is_some() {
            fail!(Usage, "--init starts a run, and --resume goes on with one: leave one of them out");
        }
        if self.options.resume { self.resume(global) } else { self.start(global) }
    }

    /// A new run.
    fn start(&self, global: &Global) -> Result<()> {
        let init = self.init.as_deref().map(|dir| global.model(Some(dir))).transpose()?;
        let init = init.map(|source| source.config().map(|config| (source, config))).transpose()?;
        let (model, choices) = self.given()?;
        if choices.lora.is_some() && init.is_none() {
            fail!(Usage, "--lora trains adapters of a model: say with --init of which");
        }
        let portions = Portion::parse(&self.data)?;
        let paths: Vec<_> =
            portions.iter().map(|portion| Some(portion.path.as_path())).chain([self.val.as_deref()]).collect();
        super::check_extensions(self.ext.as_ref(), &paths)?;
        let recipe = PresetRecipe::of(model.recipe());
        let is_encoder =
            init.as_ref().map_or_else(|| model.is_encoder(), |(_, config)| Ok(config.encoder.is_some()))?;
        model.check_masks(is_encoder)?;
        let context = match &init {
            Some((_, config)) => model.check_init(config)?,
            // Refuse an impossible model before reading any data.
            None => model.config(1, recipe.init_std)?.context,
        };
        // Whatever cannot be right is refused before reading any data, too; without data an epoch has one micro-batch.
        choices.clone().resolve(&recipe.run, |_| 1)?;
        let chosen = as_object(&model, &choices);
        let known = match &init {
            Some((source, config)) => base_tokenizer(global, source, config, model.tokenizer.as_deref())?,
            None => None,
        };
        let name = model.tokenizer.as_deref().unwrap_or(recipe.tokenizer);
        let tokenizer = Named { name, vocabulary_size: model.vocabulary_size()? };
        let seed = choices.seed.unwrap_or(1337);
        let place = Place { data: &portions, val: self.val.as_deref(), extensions: self.ext.as_ref() };
        let material = open_material(place, seed, tokenizer, known)?;
        let tokens = material.corpus.training.len();
        let epoch = |batch: usize| tokens.div_ceil((batch * context) as u64).max(1);
        let of_adapters = choices.clone();
        let settings = choices.resolve(&recipe.run.for_ranks(global.ranks.count()), epoch)?;
        let config = model_config(&model, recipe.init_std, &settings, &material, init.as_ref().map(|(_, c)| c))?;
        let config = match &init {
            Some((source, base)) => of_adapters.adapted(config, (base, source.name()))?,
            None => config,
        };
        settings.check_model(&config, config.trains_head())?;
        if settings.sample_every > 0 && material.tokenizer.is_none() {
            fail!(
                Usage,
                "--sample-every needs a tokenizer, and these token ids have none: give --tokenizer, or leave it out"
            );
        }
        if settings.sample_every > 0 && (is_encoder || config.encoder_decoder.is_some()) {
            fail!(Usage, "--sample-every has texts continued, which an encoder cannot do: leave it out");
        }
        if settings.sample_every > 0 {
            config.must_remember("draw samples on the way (--sample-every)")?;
        }
        // Heads that the model in the folder has not start from initial values.
        let with_heads =
            |own: &Config| own.clone().with_heads(own.heads_of_encoder().shared(config.heads_of_encoder()));
        let weights = init.as_ref().map(|(source, own)| source.weights(&with_heads(own))).transpose()?;
        let (data, mixture) = kept(&portions);
        let validation = self.val.as_deref().map(absolute);
        let digest = Some(material.corpus.digest());
        let extensions = self.ext.clone();
        let masks = is_encoder.then(|| (model.mask_share.unwrap_or(MASK_SHARE), model.whole_words == Some(true)));
        let arguments = Arguments { data, mixture, validation, context, extensions, choices: chosen, digest, masks };
        let prepared = self.prepared(global, settings.quantised(config), settings, material, arguments)?;
        prepared.start(|| RunFolder::create(&self.out, self.options.mode()), weights)
    }

    /// Goes on from the last checkpoint, with its settings; only --steps may change, and the place of the data.
    fn resume(&self, global: &Global) -> Result<()> {
        let (model, choices) = self.given()?;
        let mut resumed = resumed(global, (&self.out, ""), "train", |objective| OBJECTIVES.contains(&objective))?;
        let (mut arguments, tokenizer): (Arguments, _) = resumed.kept()?;
        let mut settings = resumed.state.settings.clone();
        let own = json!({"context": arguments.context});
        let chosen = merge(own, arguments.choices.clone());
        check_same(&self.out, &as_object(&model, &choices), &chosen, &settings)?;
        settings.steps = choices.steps.unwrap_or(settings.steps);
        if !self.data.is_empty() {
            (arguments.data, arguments.mixture) = kept(&Portion::parse(&self.data)?);
        }
        arguments.validation = self.val.as_deref().map(absolute).or(arguments.validation);
        arguments.extensions = self.ext.clone().or(arguments.extensions);
        let portions = arguments.portions();
        let place =
            Place { data: &portions, val: arguments.validation.as_deref(), extensions: arguments.extensions.as_ref() };
        let named = Named { name: "char", vocabulary_size: 0 };
        let material = open_material(place, settings.seed, named, tokenizer)?;
        let config = settings.quantised(resumed.checkpoint.config.clone());
        if material.corpus.vocabulary_size > config.vocab_size {
            fail!(Input, "the data has another vocabulary than the checkpoint: it changed since the run was started");
        }
        let digest = material.corpus.digest();
        self.options.check_data(global, arguments.digest.as_ref(), &digest)?;
        arguments.digest = Some(digest);
        self.prepared(global, config, settings, material, arguments)?.resume(resumed)
    }

    /// The choices of flags and of the configuration file.
    fn given(&self) -> Result<(ModelChoices, Choices)> {
        Ok(match &self.config {
            Some(path) => {
                let (model, choices) = read_choices(path)?;
                (merged(&self.model, &model), merged(&self.choices, &choices))
            }
            None => (self.model.clone(), self.choices.clone()),
        })
    }

    fn prepared<'a>(
        &'a self,
        global: &'a Global,
        config: Config,
        settings: Settings,
        material: Material,
        arguments: Arguments,
    ) -> Result<Prepared<'a>> {
        let Material { corpus, tokenizer, floor } = material;
        corpus.notes.iter().for_each(|note| global.say(&format!("note: {note}")));
        corpus.warnings.iter().for_each(|warning| global.say(&format!("warning: {warning}")));
        let Config { layers, heads, width, context, vocab_size, family, .. } = config;
        let (training, validation) = (corpus.training.len(), corpus.validation.len());
        let summary = format!(
            "model: {} parameters ({layers} layers, {heads} heads, {width} wide, {context} context, {vocab_size} tokens); \
             data: {training} training, {validation} validation tokens",
            config.parameter_count()
        );
        let out = self.out.display();
        let recurs = config.recurrence.is_some();
        let has_types = config.encoder.is_some_and(|encoder| encoder.token_types > 1);
        let prompt = match arguments.masks {
            Some(_) => "... [MASK] ...",
            None if config.encoder_decoder.is_some() => "... <extra_id_0> ...",
            None => "...",
        };
        let objective: Box<dyn Objective> = match (arguments.masks, &tokenizer) {
            (Some((share, whole_words)), Some(known)) => {
                let masking = Masking::new(known, "that of the data", share, whole_words)?;
                Box::new(Masked::new(config, arguments.context, corpus, masking)?)
            }
            (None, Some(known)) if config.encoder_decoder.is_some() => {
                let least = Lengths::fit(arguments.context)?.spans;
                let sentinels = Sentinels::needed(known, "that of the data", least)?;
                Box::new(Span::new(config, arguments.context, corpus, sentinels)?)
            }
            (None, None) if config.encoder_decoder.is_some() => {
                fail!(Usage, "spans need a tokenizer with sentinels, and these token ids have none: give --tokenizer")
            }
            (Some(_), None) => fail!(Usage, "masks need a tokenizer, and these token ids have none: give --tokenizer"),
            (None, _) if config.recurrence.is_some() => {
                Box::new(Segments::new(config, arguments.context, &settings, corpus, floor)?)
            }
            (None, _) => Box::new(Pretrain::new(config, arguments.context, corpus, floor)),
        };
        Ok(Prepared {
            global,
            options: &self.options,
            command: "train",
            out: &self.out,
            best: "best".into(),
            title: format!("{family}, {layers} layers, {width} wide, {context} context"),
            hint: match &tokenizer {
                _ if recurs => {
                    format!("model in {out}, curve in {out}/loss.svg; try: wgpt eval --model {out} --memory 0")
                }
                Some(_) => {
                    format!(
                        "model in {out}, curve in {out}/loss.svg; try: wgpt sample --model {out} --prompt \"{prompt}\""
                    )
                }
                None => format!("model in {out}, curve in {out}/loss.svg; to sample, put its tokenizer.json there"),
            },
            objective,
            settings,
            tokenizer: if has_types { tokenizer.map(Tokenizer::with_token_types) } else { tokenizer },
            arguments: serde_json::to_value(arguments).expect("paths and numbers always serialise"),
            summary,
        })
    }
}

/// The tokenizer of the model that a run starts from, or the one that is named where it has none.
fn base_tokenizer(
    global: &Global,
    source: &ModelSource,
    config: &Config,
    named: Option<&str>,
) -> Result<Option<Tokenizer>> {
    let dir = &source.path("");
    // Models trained on token ids have an empty tokenizer.json.
    let has_own = source.bytes(FILE_NAME)?.is_some_and(|json| !json.is_empty())
        || ["vocab.json", "vocab.txt"].iter().any(|file| source.has(file));
    let own = if has_own { Some(source.tokenizer()?) } else { None };
    let tokenizer = match (own, named) {
        (None, None) => return source.tokenizer().map(Some), // the error names the missing files
        (None, Some(kind @ ("char" | "bytes"))) => {
            fail!(
                Usage,
                "{} has no tokenizer: give --tokenizer the tokenizer.json it was trained with, not {kind}",
                dir.display()
            )
        }
        (None, Some(path)) => Tokenizer::load(Path::new(path))?,
        (Some(own), None) => own,
        (Some(own), Some(named)) => {
            let same = match named {
                "char" => false,
                "bytes" => own.json() == Tokenizer::bytes()?.json(),
                path => Tokenizer::load(Path::new(path))?.json() == own.json(),
            };
            if !same {
                fail!(
                    Usage,
                    "the model given with --init has its own tokenizer, and --tokenizer {named} is another one: leave it out"
                );
            }
            own
        }
    };
    let tokenizer = tokenizer.for_model(config.vocab_size, dir)?;
    tokenizer.warnings().iter().for_each(|warning| global.say(&format!("warning: {warning}")));
    Ok(Some(tokenizer))
}

/// All choices as one object.
fn as_object(model: &ModelChoices, choices: &Choices) -> Value {
    merge(json!(model), json!(choices))
}

/// Reads a configuration file: keys are those of the flags.
fn read_choices(path: &Path) -> Result<(ModelChoices, Choices)> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let at = |e: toml::de::Error| {
        let line = e.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        let what = e.message().split_whitespace().collect::<Vec<_>>().join(" ");
        Error::Usage(format!(
            "{}, line {line}: {what}; keys are the flags of wgpt train without the dashes",
            path.display()
        ))
    };
    let table: toml::Table = toml::from_str(&text).map_err(at)?;
    let [model, run] = [keys(&ModelChoices::default()), keys(&Choices::default())];
    for key in table.keys() {
        let is_known = model.contains_key(key) || run.contains_key(key);
        if !is_known {
            let line = text.lines().position(|line| line.trim_start().starts_with(key.as_str())).unwrap_or(0) + 1;
            fail!(
                Usage,
                "{}, line {line}: there is no key `{key}`; keys are the flags of wgpt train without the dashes",
                path.display()
            );
        }
    }
    Ok((toml::from_str(&text).map_err(at)?, toml::from_str(&text).map_err(at)?))
}

/// The names of optional choices.
fn keys(choices: &impl Serialize) -> serde_json::Map<String, serde_json::Value> {
    match serde_json::to_value(choices) {
        Ok(serde_json::Value::Object(keys)) => keys,
        _ => unreachable!("choices are an object of optional values"),
    }
}
