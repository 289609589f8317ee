//! From a file's rows to items that are ready to be fed.

use std::path::Path;

use super::batch::Item;
use crate::data::labelled::Example;
use crate::data::labelled::sequences::Encoder;
use crate::data::labelled::target::Target;
use crate::error::{Error, Result};

/// Items, and how many of them had a text cut.
#[derive(Debug)]
pub struct Prepared {
    pub items: Vec<Item>,
    pub cut: usize,
}

/// Encodes the rows of `path`; errors name the line.
pub fn prepare(encoder: &Encoder, target: &Target, examples: &[Example], path: &Path) -> Result<Prepared> {
    let mut prepared = Prepared { items: vec![], cut: 0 };
    for example in examples {
        let sequences = encoder.encode(example).map_err(|error| match error {
            Error::Input(why) => Error::Input(format!("line {} of {}: {why}", example.line, path.display())),
            other => other,
        })?;
        prepared.cut += usize::from(sequences.cut);
        let answer = target.answer(example, path)?;
        prepared.items.push(Item { ids: sequences.ids, answer, weight: 1.0 });
    }
    Ok(prepared)
}
