//! The data of a run: text or shards with their tokenizer, or the built-in stories.

use super::super::cache_folder;
use super::super::shares::{Portion, source_name};
use std::path::Path;
use std::sync::Arc;
use wgpt::data::corpora::story;
use wgpt::data::corpus::{Corpus, tokens};
use wgpt::data::source::{Extensions, Source};
use wgpt::data::tokenizer::{END_OF_SEQUENCE, Tokenizer};
use wgpt::data::tokenizer_training::unigram::SENTINELS;
use wgpt::data::tokenizer_training::{Kind, Recipe, Sizes};
use wgpt::error::Result;
use wgpt::fail;
use wgpt::models::choices::ModelChoices;
use wgpt::models::config::Config;
use wgpt::train::settings::Settings;

/// Bytes of the built-in corpus: training, and held out.
const STORY_BYTES: (usize, usize) = (2 << 20, 200 << 10);

/// The data, with its tokenizer.
pub(super) struct Material {
    pub corpus: Corpus,
    pub tokenizer: Option<Tokenizer>,
    /// The least loss that is possible, in nats per token, where it is known.
    pub floor: Option<f64>,
}

/// Where data is.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    /// None: the built-in stories; with shares: a mixture.
    pub data: &'a [Portion],
    pub val: Option<&'a Path>,
    /// Of the files that a folder is searched for.
    pub extensions: Option<&'a Extensions>,
}

/// A tokenizer by name, and the size of a vocabulary that is made of the data.
#[derive(Clone, Copy)]
pub(super) struct Named<'a> {
    pub name: &'a str,
    pub vocabulary_size: usize,
}

impl Named<'_> {
    /// Whether the name is that of a kind of tokenizer, and not a file.
    fn is_kind(&self) -> bool {
        matches!(self.name, "char" | "bytes" | WORDPIECE | UNIGRAM)
    }

    /// The tokenizer: one that is made of a text, a file, or that of the text's characters or bytes.
    fn open(&self, source: &Source) -> Result<Tokenizer> {
        let kind = match self.name {
            WORDPIECE => Kind::WordPiece { cased: false },
            UNIGRAM => Kind::Unigram { sentinels: SENTINELS },
            _ => return Tokenizer::choose(self.name, source),
        };
        let special = vec![];
        let recipe = Recipe { kind, vocabulary_size: self.vocabulary_size, min_frequency: 2, special };
        Ok(recipe.train(source, Sizes::default(), &mut |_| ())?.tokenizer)
    }
}

/// Names of tokenizers that are made of the data, as BERT's and as T5's are.
const WORDPIECE: &str = "wordpiece";
const UNIGRAM: &str = "unigram";

/// Opens the data with the tokenizer that is known, or else the one called `tokenizer`; `seed` is that of the built-in stories.
pub(super) fn open_material(
    place @ Place { data, extensions, .. }: Place,
    seed: u64,
    tokenizer: Named,
    known: Option<Tokenizer>,
) -> Result<Material> {
    let extensions = extensions.cloned().unwrap_or_default();
    let val = |val: Option<&Path>| val.map(|path| Source::open_with(path, &extensions)).transpose();
    let source = match data {
        [] => return open_stories(place.val, seed, tokenizer, known),
        [Portion { path, share: None }] => Source::open_with(path, &extensions)?,
        _ => {
            let open = |portion: &Portion| {
                let source = Source::open_with(&portion.path, &extensions)?;
                Ok((source_name(&portion.path), source, portion.share.unwrap_or(1.0)))
            };
            let sources = data.iter().map(open).collect::<Result<Vec<_>>>()?;
            return open_mixture(&sources, val(place.val)?.as_ref(), tokenizer, known);
        }
    };
    let val = val(place.val)?;
    let tokenizer = match known {
        Some(tokenizer) => Some(tokenizer),
        // Token shards have their tokenizer beside them, or none, unless one is named.
        None if !source.is_text() && tokenizer.is_kind() => {
            source.tokenizer_file().as_deref().map(Tokenizer::load).transpose()?
        }
        None => Some(tokenizer.open(&source)?),
    };
    let corpus = Corpus::open(&source, val.as_ref(), tokenizer.as_ref(), None, &cache_folder())?;
    Ok(Material { corpus, tokenizer, floor: None })
}

/// Opens a mixture with the tokenizer that is known, that of all its shards, or the one that is named.
fn open_mixture(
    sources: &[(String, Source, f64)],
    val: Option<&Source>,
    named: Named,
    known: Option<Tokenizer>,
) -> Result<Material> {
    let tokenizer = match known {
        Some(tokenizer) => Some(tokenizer),
        None if named.is_kind() && sources.iter().all(|(_, source, _)| !source.is_text()) => common_tokenizer(sources)?,
        None if named.name == "char" => {
            let alphabets = sources.iter().map(|(_, source, _)| source.alphabet()).collect::<Result<Vec<_>>>()?;
            Some(Tokenizer::from_alphabet(alphabets.into_iter().flatten().collect())?)
        }
        None if matches!(named.name, WORDPIECE | UNIGRAM) => {
            fail!(
                Usage,
                "a mixture needs a tokenizer that is there: make one with `wgpt tokenizer train` and give it with --tokenizer"
            )
        }
        None => Some(named.open(&sources[0].1)?),
    };
    let corpus = Corpus::open_mixed(sources, val, tokenizer.as_ref(), &cache_folder())?;
    Ok(Material { corpus, tokenizer, floor: None })
}

/// The tokenizer beside shards, which must be the same for all.
fn common_tokenizer(sources: &[(String, Source, f64)]) -> Result<Option<Tokenizer>> {
    let mut common: Option<(&str, Option<Tokenizer>)> = None;
    for (name, source, _) in sources {
        let own = source.tokenizer_file().as_deref().map(Tokenizer::load).transpose()?;
        let json = |tokenizer: &Option<Tokenizer>| tokenizer.as_ref().map(|tokenizer| tokenizer.json().to_vec());
        match &common {
            Some((first, kept)) if json(kept) != json(&own) => {
                fail!(Usage, "{first} and {name} have different tokenizers: make their shards with the same one")
            }
            Some(_) => {}
            None => common = Some((name, own)),
        }
    }
    Ok(common.and_then(|(_, tokenizer)| tokenizer))
}

/// The built-in corpus; validation from a disjoint range of seeds.
fn open_stories(val: Option<&Path>, seed: u64, tokenizer: Named, known: Option<Tokenizer>) -> Result<Material> {
    let source = Source::from_text("the built-in stories", story::training_text(seed, STORY_BYTES.0));
    let is_per_character = known.is_none() && matches!(tokenizer.name, "char" | "bytes");
    let tokenizer = match known {
        Some(tokenizer) => tokenizer,
        None => tokenizer.open(&source)?,
    };
    let held_out = match val {
        Some(path) => Source::open(path)?,
        None => Source::from_text("held-out stories", story::validation_text(seed, STORY_BYTES.1)),
    };
    let vocabulary_size = tokenizer.vocabulary_size();
    let open = |source: &Source| tokens(source, Some(&tokenizer), vocabulary_size, &cache_folder()).map(Arc::new);
    let corpus = Corpus {
        training: open(&source)?,
        validation: open(&held_out)?,
        vocabulary_size,
        notes: vec![],
        warnings: vec![],
    };
    let floor = (is_per_character && val.is_none()).then(|| story::entropy().nats_per_character());
    Ok(Material { corpus, tokenizer: Some(tokenizer), floor })
}

/// The model for the data's vocabulary; a continued model keeps its own shape and numbers.
pub(super) fn model_config(
    model: &ModelChoices,
    init_std: f32,
    settings: &Settings,
    material: &Material,
    init: Option<&Config>,
) -> Result<Config> {
    let vocabulary_size = material.corpus.vocabulary_size;
    let dropout = settings.dropout();
    let Some(init) = init else {
        let mut config = Config { dropout, ..model.config(vocabulary_size, init_std)? };
        let id = |name: &str| material.tokenizer.as_ref().and_then(|tokenizer| tokenizer.token_id(name));
        config.eos_token_id = match &mut config.encoder_decoder {
            // The decoder starts from padding, as in the paper's code.
            Some(both) => {
                both.start = id("<pad>").unwrap_or(both.start);
                id(END_OF_SEQUENCE).into_iter().collect()
            }
            None => material.tokenizer.as_ref().and_then(Tokenizer::end_of_text).into_iter().collect(),
        };
        return Ok(config);
    };
    if vocabulary_size > init.vocab_size {
        let (has, wants) = (init.vocab_size, vocabulary_size);
        fail!(
            Input,
            "the tokenizer has {wants} tokens and the model {has}: use the tokenizer the model was trained with"
        );
    }
    let config = Config { dropout, ..init.clone() };
    Ok(if config.encoder.is_some() { config.with_heads(model.heads()) } else { config })
}
