//! `wgpt data`: text to token shards ahead of training, the built-in tasks, and examples as models see them.

use super::render::Render;
use super::{Global, progress_of_bytes};
use rand_pcg::Pcg64;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use wgpt::data::chat_template::{ASSISTANT, USER};
use wgpt::data::corpora::dialogues::dialogues;
use wgpt::data::corpora::preferences::{self, Preference};
use wgpt::data::corpora::tasks::{self, Split, spans};
use wgpt::data::labelled::{Task, write};
use wgpt::data::prepare::{Part, Preparation, Validation};
use wgpt::data::source::{Extensions, Source};
use wgpt::data::tokenizer::Tokenizer;
use wgpt::data::{answers, tagged};
use wgpt::error::{Error, Result};
use wgpt::fail;
use wgpt::files::write_bytes;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Tokenise text into a folder of shards that `wgpt train --data` reads as they are
    Prepare(Prepare),
    /// Write examples of a built-in task, for `wgpt finetune`, `wgpt eval`, `wgpt sft`, `wgpt reward` and `wgpt align`
    Task(Examples),
    /// Show examples for `wgpt sft` as the model sees them: text, ids, and which are learned, a JSON object for each
    Render(Render),
}

impl Command {
    pub fn run(&self, global: &Global) -> Result<()> {
        match self {
            Command::Prepare(prepare) => prepare.run(global),
            Command::Task(task) => task.run(global),
            Command::Render(render) => render.run(global),
        }
    }
}

#[derive(clap::Args)]
pub struct Prepare {
    /// A file of text, .jsonl or .parquet, or a folder of them
    #[arg(long)]
    data: PathBuf,
    /// Extensions of the files that a folder is searched for, such as md,py [default: txt,jsonl,parquet]
    #[arg(long, value_name = "LIST")]
    ext: Option<Extensions>,
    /// The field of .jsonl lines, or the column of .parquet files, that holds the text [default: text]
    #[arg(long)]
    column: Option<String>,
    /// A tokenizer.json, a folder that holds one, char (one token per character of the data), or bytes
    #[arg(long, value_name = "FILE|DIR")]
    tokenizer: String,
    /// Folder for the shards
    #[arg(long)]
    out: PathBuf,
    /// Tokens in one shard
    #[arg(long, value_name = "N", default_value_t = 100_000_000)]
    shard_tokens: u64,
    /// The part of the tokens, at the end, to hold out for validation [default: 0.1, or the val files of a folder]
    #[arg(long, value_name = "FRACTION", conflicts_with = "val")]
    val_fraction: Option<f64>,
    /// Validation data, instead of a part of the data
    #[arg(long)]
    val: Option<PathBuf>,
    /// Replace the shards in --out
    #[arg(long)]
    overwrite: bool,
}

impl Prepare {
    fn run(&self, global: &Global) -> Result<()> {
        super::check_extensions(self.ext.as_ref(), &[Some(&self.data), self.val.as_deref()])?;
        let extensions = self.ext.clone().unwrap_or_default();
        let open =
            |path: &Path| Ok::<_, Error>(Source::open_with(path, &extensions)?.with_column(self.column.as_deref()));
        let source = open(&self.data)?;
        let named = self.val.as_deref().map(open).transpose()?;
        super::check_column(self.column.as_deref(), [&source].into_iter().chain(&named))?;
        source
            .notes()
            .iter()
            .chain(named.iter().flat_map(Source::notes))
            .for_each(|note| global.say(&format!("note: {note}")));
        let beside = source.validation().filter(|_| named.is_none());
        if let (Some(beside), Some(_)) = (&beside, self.val_fraction) {
            fail!(
                Usage,
                "{} is for validation by its name: leave out --val-fraction, or name files with --data",
                beside.name()
            );
        }
        let held_out = named.or(beside);
        let validation = match &held_out {
            Some(source) => Validation::Source(source),
            None => Validation::Fraction(self.val_fraction.unwrap_or(0.1)),
        };
        let interrupted = Arc::new(AtomicBool::new(false));
        let mut preparation = Preparation {
            data: &source,
            validation,
            shard_tokens: self.shard_tokens,
            out: &self.out,
            overwrite: self.overwrite,
            interrupted: interrupted.clone(),
        };
        preparation.check()?;
        let tokenizer = Tokenizer::choose(&self.tokenizer, &source)?;
        // A second Ctrl-C ends the process at once.
        let handler = ctrlc::set_handler(move || {
            if interrupted.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
        });
        if handler.is_err() {
            global.say("warning: Ctrl-C cannot be caught here, and would leave a hidden temporary folder behind");
        }
        let bytes = source.size_bytes() + held_out.as_ref().map_or(0, Source::size_bytes);
        let bar = progress_of_bytes(global, bytes);
        let prepared = preparation.run(&tokenizer, &mut |bytes| bar.set_position(bytes));
        bar.finish_and_clear();
        let prepared = prepared?;
        prepared.notes.iter().for_each(|note| global.say(&format!("note: {note}")));
        let out = self.out.display();
        global.say(&format!(
            "{} documents, {} bytes of text, {} tokens of {} bytes each",
            prepared.documents,
            prepared.text_bytes,
            prepared.training.tokens + prepared.validation.tokens,
            prepared.id_bytes
        ));
        let part = |name: &str, part: &Part| {
            global.say(&format!("{name}: {} tokens, {} bytes in {} files", part.tokens, part.bytes, part.files.len()));
        };
        part("training", &prepared.training);
        part("validation", &prepared.validation);
        global.say(&format!("train with: wgpt train --data {out} --out DIR"));
        Ok(())
    }
}

#[derive(clap::Args)]
pub struct Examples {
    /// classify (does the story end happily?), entail (does the hypothesis follow?), similar (the same in other words?) or
    /// choose (which passage goes on with the story?); tag (names and places of a story); answer (where somebody or something was, a span
    /// of two stories); dialogue (questions about a passage, and answers); or preference (such questions with a common answer and the best
    /// one, and two of which one is better)
    #[arg(value_name = "NAME", value_parser = BuiltIn::named)]
    task: BuiltIn,
    /// File to write: .jsonl, .csv or .tsv; .jsonl or CoNLL's lines for tags; .json (SQuAD's) or .jsonl for answers; .jsonl for dialogues
    /// and preferences
    #[arg(long)]
    out: PathBuf,
    /// Examples to write
    #[arg(long, default_value_t = 1000)]
    count: usize,
    /// Other examples for another seed
    #[arg(long, default_value_t = 1337)]
    seed: u32,
    /// train, validation or test, which share no examples
    #[arg(long, default_value = "train", value_parser = Split::named)]
    split: Split,
}

impl Examples {
    fn run(&self, global: &Global) -> Result<()> {
        if self.count == 0 {
            fail!(Usage, "--count 0 writes nothing: give 1 or more");
        }
        let (split, out) = (self.split.name(), self.out.display());
        let (name, count) = match self.task {
            BuiltIn::Labelled(task) => {
                let examples = tasks::examples(task, self.split, self.seed.into(), self.count);
                write(&self.out, &task.form(), &examples)?;
                (task.name(), examples.len())
            }
            BuiltIn::Tag => {
                let sentences = spans::sentences(self.split, self.seed.into(), self.count);
                tagged::write(&self.out, &tagged::Form::default(), &sentences)?;
                (TAG, sentences.len())
            }
            BuiltIn::Answer => {
                let questions = spans::questions(self.split, self.seed.into(), self.count);
                answers::write(&self.out, &answers::Form::default(), &questions)?;
                (ANSWER, questions.len())
            }
            BuiltIn::Dialogue => {
                let rows = dialogues(self.split, self.seed.into(), self.count);
                (DIALOGUE, self.lines(rows.iter().map(|messages| json!({"messages": messages})))?)
            }
            BuiltIn::Preference => {
                let questions = preferences::questions(self.split, self.seed.into(), self.count);
                (PREFERENCE, self.lines(questions.into_iter().map(preference))?)
            }
        };
        global.say(&format!("{count} {split} examples of the task {name} are in {out}"));
        Ok(())
    }

    /// Writes a row to a line of the file, and returns their number.
    fn lines(&self, rows: impl ExactSizeIterator<Item = Value>) -> Result<usize> {
        if self.out.extension().is_none_or(|extension| extension != "jsonl") {
            let out = self.out.display();
            fail!(Usage, "this task is written as .jsonl, and --out is {out}: give a name that ends so");
        }
        let count = rows.len();
        write_bytes(&self.out, rows.map(|row| row.to_string() + "\n").collect::<String>().as_bytes())?;
        Ok(count)
    }
}

/// A question with its answers, as a row that `sft`, `reward` and `align` read alike.
fn preference((question, mut random): (preferences::Question, Pcg64)) -> Value {
    let message = |role: &str, content: &str| json!([{"role": role, "content": content}]);
    let common = question.common(&mut random);
    let Preference { chosen, rejected, margin } = question.preference(&mut random);
    json!({
        "prompt": message(USER, &question.text), "completion": message(ASSISTANT, &common), "chosen": message(ASSISTANT, &chosen),
        "rejected": message(ASSISTANT, &rejected), "margin": margin, "best": question.best(),
    })
}

/// A built-in task.
#[derive(Clone, Copy)]
enum BuiltIn {
    Labelled(Task),
    Tag,
    Answer,
    Dialogue,
    Preference,
}

const TAG: &str = "tag";
const ANSWER: &str = "answer";
const DIALOGUE: &str = "dialogue";
const PREFERENCE: &str = "preference";

impl BuiltIn {
    fn named(name: &str) -> Result<BuiltIn> {
        match name {
            DIALOGUE => Ok(BuiltIn::Dialogue),
            PREFERENCE => Ok(BuiltIn::Preference),
            TAG => Ok(BuiltIn::Tag),
            ANSWER => Ok(BuiltIn::Answer),
            _ => match Task::ALL.into_iter().find(|task| task.name() == name) {
                Some(task) => Ok(BuiltIn::Labelled(task)),
                None => {
                    let labelled = Task::ALL.map(Task::name).join(", ");
                    fail!(
                        Usage,
                        "there is no built-in task {name}; there are {labelled}, {TAG}, {ANSWER}, {DIALOGUE}, {PREFERENCE}"
                    )
                }
            },
        }
    }
}
