//! Quality of pretraining data: filters with datatrove's rules, names and thresholds, duplicates, held-out texts, personal information,
//! mixtures of sources.
//!
//! Documents are read in blocks, looked at by all cores, and decided on in their order, so that nothing depends on the number of threads.
//! Those that stay, and hashes of them, go to files of a work folder, which an interrupted preparation goes on from (`stage`). Near-duplicates
//! are known once all documents are read; then those that stay are read again, as the source of what comes next (`kept`).

mod c4;
mod characters;
pub mod counts;
pub mod decontaminate;
mod document;
mod exact;
mod field;
pub mod filter;
mod fineweb;
mod gopher_quality;
mod gopher_repetition;
mod kept;
mod language;
mod minhash;
pub mod redact;
mod simplify;
pub mod stage;
pub mod word_list;
mod words;
mod work;

use filter::{Filter, Parameters};
use redact::Redact;
use word_list::Mentions;

use super::source::Source;
use crate::error::Result;
use crate::fail;

pub use document::Document;
pub use kept::Kept;

/// A source of documents with a name.
#[derive(Debug)]
pub struct Origin {
    pub name: String,
    pub source: Source,
    /// Its share of the text, where sources are mixed.
    pub share: Option<f64>,
}

/// What is done with documents, in this order.
#[derive(Default)]
pub struct Rules {
    pub filters: Vec<Box<dyn Filter>>,
    pub dedup: Dedup,
    pub redact: Option<Redact>,
    /// Groups of words that are counted before and after.
    pub mentions: Option<Mentions>,
    /// Count documents by language.
    pub languages: bool,
}

/// Duplicates that are taken out.
#[derive(Default)]
pub struct Dedup {
    /// Documents that are the same.
    pub exact: bool,
    pub paragraphs: Option<exact::Paragraphs>,
    pub minhash: Option<minhash::MinHash>,
}

impl Dedup {
    /// Of `exact`, `paragraphs` and `minhash` with commas between them, with their numbers.
    pub fn parse(list: &str) -> Result<Dedup> {
        let mut dedup = Dedup::default();
        for text in list.split(',') {
            let mut given = Parameters::parse("--dedup", text)?;
            match given.name() {
                "exact" => dedup.exact = true,
                "paragraphs" => dedup.paragraphs = Some(exact::Paragraphs::new(&mut given)?),
                "minhash" => dedup.minhash = Some(minhash::MinHash::new(&mut given)?),
                name => fail!(Usage, "--dedup {name}: there is no such kind; there are exact, paragraphs, minhash"),
            }
            given.end()?;
        }
        Ok(dedup)
    }
}
