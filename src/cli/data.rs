//! `wgpt data`: text to token shards ahead of training, the built-in tasks, and examples as models see them.

mod prepare;
mod quality;

use super::Global;
use super::render::Render;
use prepare::Prepare;
use rand_pcg::Pcg64;
use serde_json::{Value, json};
use std::path::PathBuf;
use wgpt::data::chat_template::{ASSISTANT, USER};
use wgpt::data::corpora::dialogues::dialogues;
use wgpt::data::corpora::preferences::{self, Preference};
use wgpt::data::corpora::tasks::{self, Split, spans};
use wgpt::data::labelled::{Task, write};
use wgpt::data::{answers, tagged};
use wgpt::error::Result;
use wgpt::fail;
use wgpt::files::write_bytes;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Tokenise text into a folder of shards that `wgpt train --data` reads as they are
    Prepare(Box<Prepare>),
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
