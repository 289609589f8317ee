//! Training and validation tokens of the data that a run is given.

use std::{path::Path, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    shards::{self, Sizes},
    source::Source,
    tokenizer::Tokenizer,
    tokens::Tokens,
};
use crate::{error::Result, fail};

/// The vocabulary that `.bin` data is taken to have where nothing says otherwise: GPT-2's.
pub const GPT2_VOCABULARY_SIZE: usize = 50_257;

/// The training part and the validation part of the data.
#[derive(Clone, Debug)]
pub struct Corpus {
    pub training: Arc<Tokens>,
    pub validation: Arc<Tokens>,
    /// Every id is below it.
    pub vocabulary_size: usize,
    /// Assumptions, one sentence each, to tell the user.
    pub notes: Vec<String>,
    /// Warnings about the data.
    pub warnings: Vec<String>,
}

impl Corpus {
    /// Opens the data, tokenised in the folder `cache` if it is text.
    ///
    /// Validation is `validation`, or else the `val` files beside `.bin` data, or else the last tenth of the tokens.
    /// The vocabulary is `vocabulary_size`, or else the tokenizer's, or else (for `.bin` data only) GPT-2's.
    pub fn open(
        data: &Source,
        validation: Option<&Source>,
        tokenizer: Option<&Tokenizer>,
        vocabulary_size: Option<usize>,
        cache: &Path,
    ) -> Result<Corpus> {
        let mut notes = Vec::new();
        let vocabulary_size = vocabulary_size.or(tokenizer.map(Tokenizer::vocabulary_size)).unwrap_or_else(|| {
            let remedy = "give --tokenizer if it is another";
            notes.push(format!("{} is taken to have GPT-2's vocabulary of 50257; {remedy}", data.name()));
            GPT2_VOCABULARY_SIZE
        });
        notes.extend(data.notes().iter().chain(validation.map_or(&[][..], Source::notes)).cloned());
        let whole = tokens(data, tokenizer, vocabulary_size, cache)?;
        let beside = data.validation();
        let (training, validation) = match validation.or(beside.as_ref()) {
            Some(validation) => (whole, tokens(validation, tokenizer, vocabulary_size, cache)?),
            None => {
                notes.push(format!("the last tenth of {} is held out for validation", data.name()));
                hold_out(&whole, tokenizer)?
            }
        };
        let mut warnings = training.warnings().to_vec();
        warnings.extend(validation.warnings().iter().filter(|warning| !training.warnings().contains(warning)).cloned());
        Ok(Corpus { training: training.into(), validation: validation.into(), vocabulary_size, notes, warnings })
    }

    /// Opens several sources as a mixture: name, data, and its share of the windows. Validation is `validation`, or else a mixture of that
    /// of each source.
    pub fn open_mixed(
        sources: &[(String, Source, f64)],
        validation: Option<&Source>,
        tokenizer: Option<&Tokenizer>,
        cache: &Path,
    ) -> Result<Corpus> {
        let open = |(_, source, _): &(String, Source, f64)| Corpus::open(source, validation, tokenizer, None, cache);
        let all = sources.iter().map(open).collect::<Result<Vec<_>>>()?;
        let part = |tokens: fn(&Corpus) -> &Arc<Tokens>| {
            let parts = sources
                .iter()
                .zip(&all)
                .map(|((name, _, share), corpus)| (name.clone(), (**tokens(corpus)).clone(), *share));
            Arc::new(Tokens::mixed(parts.collect()))
        };
        let training = part(|corpus| &corpus.training);
        let validation =
            if validation.is_some() { Arc::clone(&all[0].validation) } else { part(|corpus| &corpus.validation) };
        let each = |list: fn(&Corpus) -> &[String]| {
            let mut once: Vec<String> = vec![];
            for sentence in all.iter().flat_map(list) {
                if !once.contains(sentence) {
                    once.push(sentence.clone());
                }
            }
            once
        };
        let (notes, warnings) = (each(|corpus| &corpus.notes), each(|corpus| &corpus.warnings));
        let vocabulary_size = all.iter().map(|corpus| corpus.vocabulary_size).max().unwrap_or(0);
        Ok(Corpus { training, validation, vocabulary_size, notes, warnings })
    }

    /// Tells this data from other data.
    pub fn digest(&self) -> DataDigest {
        DataDigest { training: self.training.digest(), validation: self.validation.digest() }
    }
}

/// The data of a run: the SHA-256 of its token ids, wherever they are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataDigest {
    pub training: String,
    pub validation: String,
}

impl DataDigest {
    /// The change since `before`, in words; nothing where there is none.
    pub fn changed_since(&self, before: &DataDigest) -> Option<&'static str> {
        match (self.training == before.training, self.validation == before.validation) {
            (true, true) => None,
            (false, true) => Some("the training data"),
            (true, false) => Some("the validation data"),
            (false, false) => Some("the data"),
        }
    }
}

/// All tokens of a source, as for evaluation.
pub fn tokens(source: &Source, tokenizer: Option<&Tokenizer>, vocabulary_size: usize, cache: &Path) -> Result<Tokens> {
    if !source.is_text() {
        let tokens = shards::map(source, vocabulary_size, cache)?;
        let text_bytes = count_text_bytes(&tokens, tokenizer)?;
        return Ok(tokens.with_text_bytes(text_bytes));
    }
    let Some(tokenizer) = tokenizer else {
        fail!(Usage, "{} is text, which needs a tokenizer; give --tokenizer char, bytes or a file", source.name());
    };
    if vocabulary_size < tokenizer.vocabulary_size() {
        let (needed, remedy) = (tokenizer.vocabulary_size(), "use the model's own tokenizer");
        fail!(Usage, "the tokenizer has {needed} tokens, more than the vocabulary of {vocabulary_size}; {remedy}");
    }
    shards::tokenise(source, tokenizer, cache, Sizes::default())
}

/// The first nine tenths and the rest.
pub fn hold_out(tokens: &Tokens, tokenizer: Option<&Tokenizer>) -> Result<(Tokens, Tokens)> {
    let at = tokens.len() - tokens.len() / 10;
    let validation = tokens.slice(at..tokens.len()).named(&format!("the held-out last tenth of {}", tokens.name()));
    let held_out = count_text_bytes(&validation, tokenizer)?;
    let remaining = tokens.text_bytes().zip(held_out).map(|(all, held_out)| all.saturating_sub(held_out));
    let training = tokens.slice(0..at).named(tokens.name()).with_text_bytes(remaining);
    Ok((training, validation.with_text_bytes(held_out)))
}

fn count_text_bytes(tokens: &Tokens, tokenizer: Option<&Tokenizer>) -> Result<Option<u64>> {
    let token_bytes = tokenizer.and_then(Tokenizer::token_bytes);
    token_bytes.map(|token_bytes| tokens.count_text_bytes(&token_bytes)).transpose()
}
