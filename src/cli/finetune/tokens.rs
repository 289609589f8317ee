//! `wgpt finetune` for heads on an encoder's tokens, `--task tag` and `--task answer`, and for text to text, `--task text`.

use super::super::Global;
use super::super::examples::{ExampleFiles, check_validation};
use super::super::run::{Prepared, Resumed, check_same, create_folder, merge, no_tokenizer};
use super::Finetune;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use wgpt::data::masking::EncoderTokens;
use wgpt::data::tokenizer::{END_OF_SEQUENCE, Tokenizer};
use wgpt::data::{answers, tagged};
use wgpt::error::Result;
use wgpt::fail;
use wgpt::models::config::{Config, Heads};
use wgpt::objectives::answer::folder::AnswerFile;
use wgpt::objectives::encoded::{Example, check_types, epoch_len};
use wgpt::objectives::labelled::RECIPE;
use wgpt::objectives::seq2seq::folder::TextFile;
use wgpt::objectives::tag::folder::TagFile;
use wgpt::objectives::{answer, seq2seq, tag};
use wgpt::train::objective::Objective;
use wgpt::train::settings::{Recipe, Settings};

/// A task whose head looks at tokens, or that is a text itself.
pub(super) trait TokenTask {
    const NAME: &'static str;
    /// Of its examples, for people.
    const ROWS: &'static str;
    /// `task.json`.
    type File: Serialize + DeserializeOwned + Clone;
    type Item: Example;

    /// How it is learned where the user does not say.
    const RECIPE: Recipe = RECIPE;

    /// Whether there is a head beside the model's parameters.
    const HAS_HEAD: bool = true;

    /// The part of a model that is learned, or why the model will not do.
    fn pretrained(own: Config) -> Result<Config> {
        if own.encoder.is_none() {
            let (task, family) = (Self::NAME, own.family);
            fail!(
                Usage,
                "--task {task} needs an encoder, whose tokens see those after them: give --model a BERT, not a {family}"
            );
        }
        Ok(own.with_heads(Heads::None))
    }

    /// Refuses a tokenizer that lacks tokens that the task needs.
    fn check(tokenizer: &Tokenizer) -> Result<()> {
        EncoderTokens::needed(tokenizer, "that of the model").map(drop)
    }

    /// What the user should know of the examples.
    fn warning(_items: &[Self::Item]) -> Option<String> {
        None
    }

    /// The task of training data, for sequences of at most `longest` tokens.
    fn file(finetune: &Finetune, data: &Path, longest: usize) -> Result<Self::File>;

    /// A file's examples, ready to be fed.
    fn items(file: &Self::File, tokenizer: &Tokenizer, path: &Path) -> Result<Vec<Self::Item>>;

    /// The objective, and the lengths that its rows are padded to.
    fn objective(
        config: Config,
        file: Self::File,
        settings: &Settings,
        both: (Vec<Self::Item>, Vec<Self::Item>),
    ) -> Result<(Box<dyn Objective>, Vec<usize>)>;
}

/// Tags of words.
pub(super) struct Tags;

impl TokenTask for Tags {
    const NAME: &'static str = tag::NAME;
    const ROWS: &'static str = "sentences";
    type File = TagFile;
    type Item = tag::Item;

    fn file(finetune: &Finetune, data: &Path, longest: usize) -> Result<TagFile> {
        finetune.task_options.refuse_stride()?;
        let columns = finetune.columns.names();
        let labels = tagged::tags::Labels::of(&tagged::read(data, &tag_form(&columns)?, true)?)?;
        Ok(TagFile::new(labels, longest, columns))
    }

    fn items(file: &TagFile, tokenizer: &Tokenizer, path: &Path) -> Result<Vec<tag::Item>> {
        let encoder = tagged::sequences::Encoder::new(tokenizer, file.longest)?;
        let item = |sentence: &tagged::Sentence| {
            let sequences = encoder.encode(&encoder.words(sentence)?);
            let labels = tagged::sequences::labels(sentence, &file.labels, path)?;
            Ok(tag::Item { sequences, words: sentence.words.len(), labels })
        };
        tagged::read(path, &tag_form(&file.columns)?, true)?.iter().map(item).collect()
    }

    fn objective(
        config: Config,
        file: TagFile,
        settings: &Settings,
        both: (Vec<tag::Item>, Vec<tag::Item>),
    ) -> Result<(Box<dyn Objective>, Vec<usize>)> {
        let objective = tag::Tag::new(config, file, settings, both);
        let lengths = objective.lengths().to_vec();
        Ok((Box::new(objective), lengths))
    }
}

/// Answers that are spans of a context.
pub(super) struct Answers;

impl TokenTask for Answers {
    const NAME: &'static str = answer::NAME;
    const ROWS: &'static str = "questions";
    type File = AnswerFile;
    type Item = answer::Item;

    fn file(finetune: &Finetune, _data: &Path, longest: usize) -> Result<AnswerFile> {
        let (columns, stride) = (finetune.columns.names(), finetune.task_options.stride);
        answer_form(&columns)?;
        if stride.is_some_and(|stride| stride >= longest) {
            fail!(Usage, "--stride must be less than the {longest} tokens of a window: give a smaller one");
        }
        Ok(AnswerFile::new(longest, stride, columns))
    }

    fn items(file: &AnswerFile, tokenizer: &Tokenizer, path: &Path) -> Result<Vec<answer::Item>> {
        answer_items(file, tokenizer, path, true)
    }

    fn objective(
        config: Config,
        file: AnswerFile,
        settings: &Settings,
        both: (Vec<answer::Item>, Vec<answer::Item>),
    ) -> Result<(Box<dyn Objective>, Vec<usize>)> {
        let objective = answer::Answer::new(config, file, settings, both);
        let lengths = objective.lengths().to_vec();
        Ok((Box::new(objective), lengths))
    }
}

/// Texts that are written for texts.
pub(super) struct Texts;

impl TokenTask for Texts {
    const NAME: &'static str = seq2seq::NAME;
    const ROWS: &'static str = "texts";
    const RECIPE: Recipe = seq2seq::RECIPE;
    const HAS_HEAD: bool = false;
    type File = TextFile;
    type Item = seq2seq::Item;

    fn pretrained(own: Config) -> Result<Config> {
        own.must_read_and_write("be fine-tuned for --task text")?;
        Ok(own)
    }

    /// Without an end of texts, a model would never learn to end one.
    fn check(tokenizer: &Tokenizer) -> Result<()> {
        if tokenizer.token_id(END_OF_SEQUENCE).is_none() {
            fail!(
                Usage,
                "--task text needs a tokenizer with {END_OF_SEQUENCE}, which ends texts, and that of the model lacks it: give --model a T5 \
                 with its own tokenizer"
            );
        }
        Ok(())
    }

    fn warning(items: &[seq2seq::Item]) -> Option<String> {
        let cut = items.iter().filter(|item| item.cut).count();
        let all = items.len();
        (cut > 0).then(|| format!("warning: {cut} of {all} inputs are longer than --max-length and were cut"))
    }

    fn file(finetune: &Finetune, _data: &Path, longest: usize) -> Result<TextFile> {
        finetune.task_options.refuse_stride()?;
        let prefix = finetune.task_options.prefix.clone().unwrap_or_default();
        let file = TextFile::new(prefix, longest, finetune.columns.names());
        file.form()?;
        Ok(file)
    }

    fn items(file: &TextFile, tokenizer: &Tokenizer, path: &Path) -> Result<Vec<seq2seq::Item>> {
        file.items(tokenizer, path, true)
    }

    fn objective(
        config: Config,
        file: TextFile,
        settings: &Settings,
        both: (Vec<seq2seq::Item>, Vec<seq2seq::Item>),
    ) -> Result<(Box<dyn Objective>, Vec<usize>)> {
        let objective = seq2seq::Seq2Seq::new(config, file, settings, both)?;
        let lengths = objective.lengths().to_vec();
        Ok((Box::new(objective), lengths))
    }
}

/// The questions of a file with their windows; with `labels` each must say its answers.
pub(in crate::cli) fn answer_items(
    file: &AnswerFile,
    tokenizer: &Tokenizer,
    path: &Path,
    labels: bool,
) -> Result<Vec<answer::Item>> {
    let encoder = answers::windows::Encoder::new(tokenizer, file.longest, file.stride)?;
    let item = |question: answers::Question| {
        let place = format!("question {} of {}", question.id, path.display());
        let windows = encoder.encode(&question).map_err(|error| error.in_place(&place))?;
        Ok(answer::Item { question, windows })
    };
    answers::read(path, &answer_form(&file.columns)?, labels)?.into_iter().map(item).collect()
}

/// The columns of sentences, of files that have columns.
pub(in crate::cli) fn tag_form(names: &BTreeMap<String, String>) -> Result<tagged::Form> {
    let mut form = tagged::Form::default();
    for (option, name) in names {
        match option.as_str() {
            "tokens" => form.tokens.name.clone_from(name),
            "tags" => form.tags.name.clone_from(name),
            _ => fail!(Usage, "--task tag has no column --{option}: its columns are --tokens and --tags"),
        }
    }
    Ok(form)
}

/// The columns of questions.
fn answer_form(names: &BTreeMap<String, String>) -> Result<answers::Form> {
    let mut form = answers::Form::default();
    for (option, name) in names {
        match option.as_str() {
            "question" => form.question.name.clone_from(name),
            "context" => form.context.name.clone_from(name),
            "answers" => form.answers.name.clone_from(name),
            _ => fail!(
                Usage,
                "--task answer has no column --{option}: its columns are --question, --context and --answers"
            ),
        }
    }
    Ok(form)
}

/// The command's own record in a checkpoint.
#[derive(Serialize, Deserialize)]
struct Arguments {
    task: Value,
    /// Tokens of a sequence, at most.
    longest: usize,
    #[serde(flatten)]
    files: ExampleFiles,
    /// The user's choices of the task and the run.
    choices: Value,
}

/// A new run.
pub(super) fn start<T: TokenTask>(finetune: &Finetune, global: &Global) -> Result<()> {
    let Some(data) = finetune.data.as_deref() else { fail!(Usage, "a new run needs its data: give --data") };
    check_validation(&finetune.choices, finetune.val.as_deref())?;
    check_options(finetune, T::NAME)?;
    let source = global.model(finetune.model.as_deref())?;
    let own = source.config()?;
    let pretrained = T::pretrained(own)?;
    let (weights, tokenizer) = (source.weights(&pretrained)?, source.tokenizer()?);
    let tokenizer = tokenizer.for_model(pretrained.vocab_size, &source.path(""))?;
    T::check(&tokenizer)?;
    let config = finetune.choices.adapted(pretrained.clone(), (&pretrained, source.name()))?;
    if config.lora.is_some() && finetune.task_options.from_scratch {
        fail!(Usage, "--from-scratch has no weights that adapters could be on: leave it or --lora out");
    }
    let longest = finetune.longest(&config)?;
    let file = T::file(finetune, data, longest)?;
    let files = ExampleFiles::new(finetune.data.as_slice(), finetune.val.as_deref())?;
    let read = |path: &Path| T::items(&file, &tokenizer, path);
    let both = (read(data)?, finetune.val.as_deref().map_or(Ok(vec![]), read)?);
    check_types(&both.0, &pretrained).map_err(|error| error.in_place(&data.display().to_string()))?;
    T::warning(&both.0).iter().chain(&T::warning(&both.1)).for_each(|warning| global.say(warning));
    let recipe = T::RECIPE.for_adapters(&config);
    let settings = finetune
        .choices
        .clone()
        .resolve(&recipe.for_ranks(global.ranks.count()), |batch| epoch_len(&both.0, longest, batch))?;
    settings.check_model(&pretrained, T::HAS_HEAD || pretrained.trains_head())?;
    let arguments = Arguments { task: json!(file), longest, files, choices: finetune.given() };
    let config = settings.quantised(config);
    let prepared = prepared::<T>(finetune, global, (config, file), settings, tokenizer, arguments, both)?;
    let weights = (!finetune.task_options.from_scratch).then_some(weights);
    prepared.start(|| create_folder(&finetune.out, &finetune.options), weights)
}

/// Goes on with a run.
pub(super) fn resume<T: TokenTask>(finetune: &Finetune, global: &Global, mut resumed: Resumed) -> Result<()> {
    let (mut arguments, tokenizer): (Arguments, _) = resumed.kept()?;
    let tokenizer = tokenizer.ok_or_else(|| no_tokenizer(&finetune.out))?;
    let file: T::File = serde_json::from_value(arguments.task.clone())
        .map_err(|_| wgpt::error::Error::Input(format!("trainer.json of {} is damaged", finetune.out.display())))?;
    let mut settings = resumed.state.settings.clone();
    let settled = json!({"max_length": arguments.longest, "stride": arguments.task["stride"], "prefix": arguments.task["prefix"]});
    check_same(&finetune.out, &finetune.given(), &merge(settled, arguments.choices.clone()), &settings)?;
    settings.steps = finetune.choices.steps.unwrap_or(settings.steps);
    let places = (finetune.data.as_slice(), finetune.val.as_deref());
    arguments.files = arguments.files.moved(global, &finetune.options, places)?;
    let config = settings.quantised(resumed.checkpoint.config.clone());
    let (data, validation) = arguments.files.places();
    let read = |path: &Path| T::items(&file, &tokenizer, path);
    let both = (read(data)?, validation.map_or(Ok(vec![]), read)?);
    prepared::<T>(finetune, global, (config, file), settings, tokenizer, arguments, both)?.resume(resumed)
}

/// Refuses options that heads on tokens have no use for.
fn check_options(finetune: &Finetune, task: &str) -> Result<()> {
    let options = &finetune.task_options;
    let given = [
        ("grades", options.grades),
        ("lambda", options.lambda.is_some()),
        ("class-weights", options.class_weights.is_some()),
        ("metric", options.metric.is_some()),
        ("buckets", options.buckets.is_some()),
    ];
    if task != seq2seq::NAME {
        options.refuse_prefix()?;
    }
    match given.into_iter().find(|(_, given)| *given) {
        Some((name, _)) => fail!(Usage, "--{name} is not for --task {task}: leave it out"),
        None => Ok(()),
    }
}

fn prepared<'a, T: TokenTask>(
    finetune: &'a Finetune,
    global: &'a Global,
    (config, file): (Config, T::File),
    settings: Settings,
    tokenizer: Tokenizer,
    arguments: Arguments,
    both: (Vec<T::Item>, Vec<T::Item>),
) -> Result<Prepared<'a>> {
    let (out, family, task) = (finetune.out.display(), config.family, T::NAME);
    let (training, validation) = (both.0.len(), both.1.len());
    let (objective, lengths) = T::objective(config, file, &settings, both)?;
    Ok(Prepared {
        global,
        options: &finetune.options,
        command: "finetune",
        out: &finetune.out,
        best: PathBuf::new(),
        title: format!("{task} on {family}"),
        hint: format!("model in {out}; try: wgpt predict --model {out} --data FILE"),
        summary: format!(
            "{task}: {training} training, {validation} validation {}, padded to {lengths:?} tokens",
            T::ROWS
        ),
        objective,
        settings,
        tokenizer: Some(tokenizer),
        arguments: serde_json::to_value(arguments).expect("paths and numbers always serialise"),
    })
}
