//! `wgpt tokenizer`: trains a tokenizer, and turns text into token ids and back in pipes.

use super::{Global, progress_of_bytes};
use clap::Args;
use std::path::{Path, PathBuf};
use wgpt::data::corpora::story;
use wgpt::data::source::{Extensions, Source};
use wgpt::data::tokenizer::{FILE_NAME, Tokenizer};
use wgpt::data::tokenizer_training::unigram::SENTINELS;
use wgpt::data::tokenizer_training::{Kind, Progress, Recipe, Sizes};
use wgpt::error::Result;
use wgpt::fail;
use wgpt::files::replacement::Replacement;
use wgpt::files::write_bytes;

mod pipe;

/// GPT's 40,000 merges, the 256 bytes and <|endoftext|>.
const BPE_VOCABULARY: usize = 40_257;
/// BERT's.
const WORDPIECE_VOCABULARY: usize = 30_522;
/// T5's, with its sentinels.
const UNIGRAM_VOCABULARY: usize = 32_100;
/// Of a pair that is merged.
const LEAST_FREQUENCY: u64 = 2;
/// No model has more tokens.
const MOST_VOCABULARY: usize = 1 << 24;
/// Bytes of the built-in corpus, as `wgpt train` has it.
const STORY_BYTES: usize = 2 << 20;
const STORY_SEED: u64 = 1337;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Train a tokenizer on text
    Train(Train),
    /// Text on standard input to token ids on standard output
    Encode(pipe::Encode),
    /// Token ids on standard input (separated by white space, or JSON arrays) to text on standard output
    Decode(pipe::Decode),
}

impl Command {
    pub fn run(&self, global: &Global) -> Result<()> {
        match self {
            Command::Train(train) => train.run(global),
            Command::Encode(encode) => encode.run(),
            Command::Decode(decode) => decode.run(),
        }
    }
}

#[derive(Args)]
pub struct Train {
    /// A file of text, .jsonl or .parquet, or a folder of them [default: the built-in stories]
    #[arg(long)]
    data: Option<PathBuf>,
    /// Extensions of the files that a folder is searched for, such as md,py [default: txt,jsonl,parquet]
    #[arg(long, value_name = "LIST", requires = "data")]
    ext: Option<Extensions>,
    /// The field of .jsonl lines, or the column of .parquet files, that holds the text [default: text]
    #[arg(long, requires = "data")]
    column: Option<String>,
    /// bpe: GPT-2's byte-level pairs; wordpiece: BERT's; unigram: T5's, with the sentinels of span corruption
    #[arg(long, value_enum, default_value_t = KindName::Bpe)]
    kind: KindName,
    /// All tokens together: bytes or characters, merges, special tokens [default: 40257 for bpe, 30522 for wordpiece, 32100 for unigram]
    #[arg(long, value_name = "N")]
    vocab: Option<usize>,
    /// Of bpe and wordpiece: pairs that occur less often are not merged [default: 2]
    #[arg(long, value_name = "N")]
    min_frequency: Option<u64>,
    /// A further special token, such as <|user|>; may be given several times
    #[arg(long, value_name = "TOKEN")]
    special: Vec<String>,
    /// WordPiece: keep capital letters and accents
    #[arg(long)]
    cased: bool,
    /// The tokenizer.json to write, or a folder for it and a tokenizer_config.json
    #[arg(long)]
    out: PathBuf,
    /// Replace a tokenizer that is there
    #[arg(long)]
    overwrite: bool,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum KindName {
    Bpe,
    Wordpiece,
    Unigram,
}

impl Train {
    fn run(&self, global: &Global) -> Result<()> {
        if self.cased && self.kind != KindName::Wordpiece {
            fail!(Usage, "--cased is for --kind wordpiece: the other kinds always keep capital letters");
        }
        if self.min_frequency.is_some() && self.kind == KindName::Unigram {
            fail!(
                Usage,
                "--min-frequency is for --kind bpe and wordpiece, which merge pairs: unigram has none, leave it out"
            );
        }
        let (kind, default) = match self.kind {
            KindName::Bpe => (Kind::Bpe, BPE_VOCABULARY),
            KindName::Wordpiece => (Kind::WordPiece { cased: self.cased }, WORDPIECE_VOCABULARY),
            KindName::Unigram => (Kind::Unigram { sentinels: SENTINELS }, UNIGRAM_VOCABULARY),
        };
        let vocabulary_size = self.vocab.unwrap_or(default);
        if vocabulary_size > MOST_VOCABULARY {
            fail!(Usage, "--vocab {vocabulary_size} is beyond any model's vocabulary: give at most {MOST_VOCABULARY}");
        }
        let (min_frequency, special) = (self.min_frequency.unwrap_or(LEAST_FREQUENCY), self.special.clone());
        let recipe = Recipe { kind, vocabulary_size, min_frequency, special };
        super::check_extensions(self.ext.as_ref(), &[self.data.as_deref()])?;
        let out = Target::of(&self.out, self.overwrite)?;
        let source = match &self.data {
            Some(path) => {
                Source::open_with(path, &self.ext.clone().unwrap_or_default())?.with_column(self.column.as_deref())
            }
            None => Source::from_text("the built-in stories", story::training_text(STORY_SEED, STORY_BYTES)),
        };
        super::check_column(self.column.as_deref(), [&source])?;
        source.notes().iter().for_each(|note| global.say(&format!("note: {note}")));
        let bar = progress_of_bytes(global, source.size_bytes());
        let trained = recipe.train(&source, Sizes::default(), &mut |progress| match progress {
            Progress::Reading { bytes } => bar.set_position(bytes),
            Progress::Merging { words } => {
                bar.set_style(super::spinner());
                bar.set_message(format!("merging {words} different words"));
                bar.enable_steady_tick(std::time::Duration::from_millis(200));
            }
        });
        bar.finish_and_clear();
        let trained = trained?;
        out.write(&trained.tokenizer)?;
        trained.notes.iter().for_each(|note| global.say(&format!("note: {note}")));
        let (size, file) = (trained.tokenizer.vocabulary_size(), self.out.display());
        let (bytes, words) = (trained.text_bytes, trained.words);
        global.say(&format!("{size} tokens from {bytes} bytes of text with {words} different words, in {file}"));
        global.say(&format!("use it with: wgpt train --tokenizer {file}"));
        Ok(())
    }
}

/// Where a tokenizer goes.
enum Target<'a> {
    File(&'a Path),
    Folder(&'a Path),
}

impl Target<'_> {
    /// Refuses a path that cannot be written before any work is done.
    fn of(path: &Path, overwrite: bool) -> Result<Target<'_>> {
        let is_file = !path.is_dir() && path.extension().is_some_and(|extension| extension == "json");
        let file = if is_file { path.to_path_buf() } else { path.join(FILE_NAME) };
        if file.exists() && !overwrite {
            fail!(Usage, "{} is there already; choose another --out or add --overwrite", file.display());
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if is_file && !parent.is_dir() {
            fail!(Usage, "there is no folder {} to write {} to; make it first", parent.display(), path.display());
        }
        if path.is_file() && !is_file {
            fail!(Usage, "{} is a file; give --out a name that ends in .json, or that of a folder", path.display());
        }
        Ok(if is_file { Target::File(path) } else { Target::Folder(path) })
    }

    fn write(&self, tokenizer: &Tokenizer) -> Result<()> {
        match self {
            Target::File(path) => write_bytes(path, tokenizer.json()),
            Target::Folder(path) => {
                let folder = Replacement::begin(path)?;
                tokenizer.save(folder.path())?;
                folder.commit(&|_| true)
            }
        }
    }
}
