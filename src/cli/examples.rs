//! Examples that a command trains on: their files as a checkpoint keeps them, options of validation, the chat template.

use super::Global;
use super::run::RunOptions;
use serde::{Deserialize, Serialize, Serializer};
use std::path::{Path, PathBuf};
use wgpt::data::chat_template::built_in;
use wgpt::data::corpus::DataDigest;
use wgpt::error::{Error, Result};
use wgpt::fail;
use wgpt::files::sha256_hex;
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

/// Files of examples that a command trains on, as a checkpoint keeps them.
#[derive(Serialize, Deserialize)]
pub struct ExampleFiles {
    #[serde(serialize_with = "as_absolute")]
    data: PathBuf,
    #[serde(serialize_with = "all_as_absolute")]
    validation: Option<PathBuf>,
    /// Tells the data from other data.
    #[serde(default)]
    digest: Option<DataDigest>,
}

/// Messages show a path as the user gave it; a checkpoint keeps it absolute, so that a run is resumed from any folder.
fn as_absolute<P: AsRef<Path>, S: Serializer>(path: &P, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    absolute(path.as_ref()).serialize(serializer)
}

fn all_as_absolute<P: AsRef<Path>, S: Serializer>(
    path: &Option<P>,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    path.as_ref().map(|path| absolute(path.as_ref())).serialize(serializer)
}

impl ExampleFiles {
    pub fn new(data: &Path, validation: Option<&Path>) -> Result<ExampleFiles> {
        let of = |path: &Path| Ok::<_, Error>(sha256_hex(&std::fs::read(path).map_err(Error::io("read", path))?));
        let digest = DataDigest { training: of(data)?, validation: validation.map_or(Ok(String::new()), of)? };
        Ok(ExampleFiles { data: data.into(), validation: validation.map(Path::to_path_buf), digest: Some(digest) })
    }

    /// The files of a resumed run, at the paths that flags give now; refuses files with other contents.
    pub fn moved(
        self,
        global: &Global,
        options: &RunOptions,
        (data, validation): (Option<&Path>, Option<&Path>),
    ) -> Result<ExampleFiles> {
        let now = ExampleFiles::new(data.unwrap_or(&self.data), validation.or(self.validation.as_deref()))?;
        now.digest.iter().try_for_each(|digest| options.check_data(global, self.digest.as_ref(), digest))?;
        Ok(now)
    }

    /// Training and validation.
    pub fn places(&self) -> (&Path, Option<&Path>) {
        (&self.data, self.validation.as_deref())
    }
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
