//! Examples that a command trains on: their files as a checkpoint keeps them, options of validation, the chat template.

use super::Global;
use super::run::RunOptions;
use serde::{Deserialize, Serialize, Serializer};
use std::path::{Path, PathBuf};
use wgpt::data::chat_template::{ChatTemplate, built_in};
use wgpt::data::corpus::DataDigest;
use wgpt::data::dialogues::Encoder;
use wgpt::data::tokenizer::Tokenizer;
use wgpt::error::{Error, Result};
use wgpt::fail;
use wgpt::files::sha256_hex;
use wgpt::formats::source::ModelSource;
use wgpt::models::config::Config;
use wgpt::train::run::absolute;
use wgpt::train::settings::Choices;

/// Refuses options of validation where there is no validation data, and a number of validation batches: all examples are evaluated.
pub fn check_validation(choices: &Choices, validation: Option<&Path>) -> Result<()> {
    if choices.eval_batches.is_some() {
        fail!(Usage, "--eval-batches is for text: all validation examples are evaluated; leave it out");
    }
    let given = [("eval-every", choices.eval_every.is_some()), ("patience", choices.patience.is_some_and(|p| p > 0))];
    match given.into_iter().find(|(_, given)| *given) {
        Some((flag, _)) if validation.is_none() => {
            fail!(Usage, "--{flag} is about validations, and there is no validation data: give --val, or leave it out")
        }
        _ => Ok(()),
    }
}

/// Refuses shares that are not one positive number for each source.
pub fn check_mix(mix: &[f64], sources: usize) -> Result<()> {
    if !mix.is_empty() && mix.len() != sources {
        fail!(Usage, "--mix has {} shares for {sources} --data: give one for each", mix.len());
    }
    match mix.iter().find(|share| !(share.is_finite() && **share > 0.0)) {
        Some(share) => fail!(Usage, "--mix {share} is no share: give numbers above 0"),
        None => Ok(()),
    }
}

/// Files of examples that a command trains on, as a checkpoint keeps them.
#[derive(Serialize, Deserialize)]
pub struct ExampleFiles {
    #[serde(serialize_with = "all_as_absolute")]
    data: Vec<PathBuf>,
    #[serde(serialize_with = "as_absolute")]
    validation: Option<PathBuf>,
    /// Tells the data from other data.
    #[serde(default)]
    digest: Option<DataDigest>,
}

/// Messages show a path as the user gave it; a checkpoint keeps it absolute, so that a run is resumed from any folder.
fn all_as_absolute<S: Serializer>(paths: &[PathBuf], serializer: S) -> std::result::Result<S::Ok, S::Error> {
    paths.iter().map(|path| absolute(path)).collect::<Vec<_>>().serialize(serializer)
}

fn as_absolute<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    path.as_deref().map(absolute).serialize(serializer)
}

impl ExampleFiles {
    /// `data` is at least one file, or folder of such.
    pub fn new(data: &[PathBuf], validation: Option<&Path>) -> Result<ExampleFiles> {
        let of = |path: &Path| Ok::<_, Error>(sha256_hex(&std::fs::read(path).map_err(Error::io("read", path))?));
        let mut training = vec![];
        for source in data {
            for file in files(source)? {
                training.push(of(&file)?);
            }
        }
        let training = if training.len() == 1 { training.remove(0) } else { sha256_hex(training.concat().as_bytes()) };
        let digest = DataDigest { training, validation: validation.map_or(Ok(String::new()), of)? };
        Ok(ExampleFiles { data: data.to_vec(), validation: validation.map(Path::to_path_buf), digest: Some(digest) })
    }

    /// The files of a resumed run, at the paths that flags give now; refuses files with other contents.
    pub fn moved(
        self,
        global: &Global,
        options: &RunOptions,
        (data, validation): (&[PathBuf], Option<&Path>),
    ) -> Result<ExampleFiles> {
        let data = if data.is_empty() { &self.data } else { data };
        let now = ExampleFiles::new(data, validation.or(self.validation.as_deref()))?;
        now.digest.iter().try_for_each(|digest| options.check_data(global, self.digest.as_ref(), digest))?;
        Ok(now)
    }

    /// Training and validation, of a command with one file for each.
    pub fn places(&self) -> (&Path, Option<&Path>) {
        (&self.data[0], self.validation.as_deref())
    }

    /// The sources of training examples.
    pub fn sources(&self) -> &[PathBuf] {
        &self.data
    }
}

/// A file, or the .jsonl and .parquet files of a folder by their names.
pub fn files(source: &Path) -> Result<Vec<PathBuf>> {
    if !source.is_dir() {
        return Ok(vec![source.to_path_buf()]);
    }
    let mut files = vec![];
    for entry in std::fs::read_dir(source).map_err(Error::io("list", source))? {
        let path = entry.map_err(Error::io("list", source))?.path();
        let is_of_rows = path.extension().is_some_and(|extension| extension == "jsonl" || extension == "parquet");
        files.extend(is_of_rows.then_some(path));
    }
    if files.is_empty() {
        fail!(Input, "{} holds no .jsonl or .parquet file: give a file, or a folder of such", source.display());
    }
    files.sort();
    Ok(files)
}

/// Says how many rows of a file were dropped, and fails where none is left: all `rows` of it, such as "pairs", `why`, such as "are longer
/// than 8 tokens"; `advice` says what helps.
pub fn check_kept(
    global: &Global,
    path: &Path,
    (kept, dropped): (usize, usize),
    (rows, why, advice): (&str, &str, &str),
) -> Result<()> {
    let (all, path) = (kept + dropped, path.display());
    if kept == 0 {
        fail!(Input, "all {all} {rows} of {path} {why}: {advice}");
    }
    if dropped > 0 {
        global.say(&format!("warning: {dropped} of {all} {rows} of {path} {why} and were dropped"));
    }
    Ok(())
}

/// The text of a template that is named, or in a file.
pub fn template_text(template: &str) -> Result<String> {
    if let Some(text) = built_in(template) {
        return Ok(text.into());
    }
    let path = Path::new(template);
    if !path.exists() {
        fail!(Usage, "--template {template} is neither chatml, plain or lines, nor a file: give one of them");
    }
    std::fs::read_to_string(path).map_err(Error::io("read the chat template", path))
}

/// Refuses a template beside --resume that is not the one of the run in `out`.
pub fn check_same_template(out: &Path, given: Option<&str>, kept: &Tokenizer) -> Result<()> {
    let Some(template) = given else { return Ok(()) };
    let kept = kept.chat_template_text();
    if kept.is_none_or(|kept| template_text(template).ok() != Some(kept)) {
        let out = out.display();
        fail!(Usage, "--resume takes the chat template from the run in {out}: leave out --template {template}");
    }
    Ok(())
}

/// A model's tokenizer for dialogues, with the chat template that `--template` names or the folder's, and its configuration with the
/// token that ends a turn.
pub fn for_dialogues(source: &ModelSource, config: Config, template: Option<&str>) -> Result<(Config, Tokenizer)> {
    let tokenizer = source.tokenizer()?.for_model(config.vocab_size, &source.path(""))?;
    match template {
        Some(template) => ended(config, tokenizer.with_chat_template(&template_text(template)?)),
        None => ended(config, tokenizer),
    }
}

/// `--max-length`, or trl's number of tokens where the model's context holds as many.
pub fn longest(given: Option<usize>, config: &Config) -> Result<usize> {
    let longest = given.unwrap_or(1024.min(config.context));
    if !(2..=config.context).contains(&longest) {
        fail!(Usage, "--max-length {longest} must be from 2 to {}, the model's context", config.context);
    }
    Ok(longest)
}

/// What encodes dialogues for a model.
pub fn encoder<'a>(config: &Config, tokenizer: &'a Tokenizer, template: Option<&'a ChatTemplate>) -> Encoder<'a> {
    Encoder { tokenizer, template, end: config.eos_token_id.first().copied().or(tokenizer.end_of_text()) }
}

/// The model and its tokenizer with the token that ends a turn, where that is one token, as the first that ends a text: so answers end
/// in other programs, too.
fn ended(config: Config, tokenizer: Tokenizer) -> Result<(Config, Tokenizer)> {
    let template = tokenizer.chat_template()?;
    let end = template.map(|template| template.end_of_turn(|text| tokenizer.is_special(text))).transpose()?.flatten();
    let ids = end.map(|end| tokenizer.encode(&end)).transpose()?.unwrap_or_default();
    let [id] = ids[..] else { return Ok((config, tokenizer)) };
    let others = config.eos_token_id.iter().copied().filter(|other| *other != id);
    let eos_token_id = [id].into_iter().chain(others).collect();
    Ok((Config { eos_token_id, ..config }, tokenizer.with_end(id)))
}
