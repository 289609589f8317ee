//! `wgpt predict`: labels and probabilities of a file or of standard input, one JSON object per line.

mod answer;
mod tag;
mod text;

use super::examples::template_text;
use super::finetune::options::Columns;
use super::{Global, console};
use serde_json::Value;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use wgpt::data::chat_template::Message;
use wgpt::data::dialogues::rendered;
use wgpt::data::labelled::target::form;
use wgpt::data::labelled::{self, Example, Render};
use wgpt::error::{Error, Result};
use wgpt::evaluate::metrics::Metrics;
use wgpt::fail;
use wgpt::objectives;
use wgpt::objectives::labelled::folder::{Finetuned, open, task_name_of};
use wgpt::objectives::labelled::prepare::prepare;
use wgpt::objectives::labelled::scorer::measure;

/// Its name in messages.
const STANDARD_INPUT: &str = "standard input";

#[derive(clap::Args)]
pub struct Predict {
    /// Folder of a fine-tuned model, or of a classifier that transformers saved
    #[arg(long)]
    model: PathBuf,
    /// .jsonl, .csv or .tsv with the columns of the training data; - or nothing for standard input, a line for each text, a
    /// tab between two, or JSON objects. Where rows have labels, metrics are reported. A reward model scores lists of messages, too
    #[arg(long)]
    data: Option<PathBuf>,
    #[command(flatten)]
    columns: Columns,
    /// Chat template of texts that are lists of messages: chatml, plain, lines, or a file [default: the model folder's]
    #[arg(long, value_name = "NAME|FILE")]
    template: Option<String>,
    /// answer: answers of each question
    #[arg(long, value_name = "N", default_value_t = 1)]
    top: usize,
    /// answer: above this difference of the scores of no answer and the best one, there is none [default: there always is one]
    #[arg(long, value_name = "THRESHOLD", allow_negative_numbers = true)]
    no_answer: Option<f64>,
    /// text: beams of a search, 1 for the most likely token each time
    #[arg(long, value_name = "N", default_value_t = 1)]
    beams: usize,
    /// text: tokens of an answer, at most [default: --max-length of finetune, or the model's context]
    #[arg(long, value_name = "N")]
    max_new_tokens: Option<usize>,
    /// Examples at once
    #[arg(long, default_value_t = 32)]
    batch: usize,
}

impl Predict {
    pub fn run(&self, global: &Global) -> Result<()> {
        super::check_device(&global.device)?;
        if !(1..=1 << 16).contains(&self.batch) {
            fail!(Usage, "--batch is {}, but must be from 1 to 65536", self.batch);
        }
        let source = global.model(Some(&self.model))?;
        let task = task_name_of(&source)?;
        self.check(&task)?;
        match task.as_str() {
            objectives::tag::NAME => return tag::run(self, global, &source),
            objectives::answer::NAME => return answer::run(self, global, &source),
            objectives::seq2seq::NAME => return text::run(self, global, &source),
            _ => {}
        }
        let mut model = open(&source)?;
        let (path, examples) = self.examples(&model)?;
        model.task.target = model.task.target.settled(&examples);
        let prepared = prepare(&model.encoder(), &model.task.target, &examples, &path)?;
        if prepared.cut > 0 {
            let (cut, all, longest) = (prepared.cut, examples.len(), model.task.longest);
            global.say(&format!("warning: {cut} of {all} rows are longer than {longest} tokens and were cut"));
        }
        let mut executor = global.open()?;
        let scores = model.scores(executor.as_mut(), &prepared.items, self.batch, 4)?;
        for (example, scores) in examples.iter().zip(&scores) {
            let mut object = model.prediction(example, scores);
            object["line"] = Value::from(example.line);
            console::line(object)?;
        }
        if let Some((metrics, loss)) = measure(&model.task.target, &prepared.items, &scores) {
            global.say(&format!("loss {loss:.4}, {metrics}"));
            if let Metrics::Classes { confusion, .. } = &metrics {
                global.detail(&format!("true by row, predicted by column:\n{confusion}"));
            }
        }
        Ok(())
    }

    /// Refuses options of other tasks than the model's.
    fn check(&self, task: &str) -> Result<()> {
        let (answer, text) = (objectives::answer::NAME, objectives::seq2seq::NAME);
        let given = [
            ("--top", self.top != 1, answer),
            ("--no-answer", self.no_answer.is_some(), answer),
            ("--beams", self.beams != 1, text),
            ("--max-new-tokens", self.max_new_tokens.is_some(), text),
        ];
        match given.into_iter().find(|(_, is_given, of)| *is_given && *of != task) {
            Some((option, _, of)) => {
                fail!(Usage, "{option} is for models of --task {of}, and this one is of {task}: leave it out")
            }
            None => Ok(()),
        }
    }

    /// The rows, and the name of their source in messages.
    fn examples(&self, model: &Finetuned) -> Result<(PathBuf, Vec<Example>)> {
        let mut columns = model.task.columns.clone();
        columns.extend(self.columns.names());
        let form = form(model.task.task, &columns)?;
        let template = match &self.template {
            Some(template) => model.tokenizer.clone().with_chat_template(&template_text(template)?).chat_template()?,
            None => model.tokenizer.chat_template()?,
        };
        let render = |messages: &[Message]| Ok(rendered(messages, template.as_ref())?.1);
        // Tokens around every text are those of a head on texts alone.
        let render: Option<&Render> = if model.task.special.is_none() { Some(&render) } else { None };
        if render.is_none() && self.template.is_some() {
            fail!(Usage, "--template is for models that score lists of messages, and this one does not: leave it out");
        }
        if let Some(path) = self.file() {
            return Ok((path.to_path_buf(), labelled::read_rendered(path, &form, render)?));
        }
        let text = standard_input()?;
        Ok((STANDARD_INPUT.into(), labelled::read_lines(Path::new(STANDARD_INPUT), &text, &form, render)?))
    }

    /// The file of rows, where they do not come from standard input.
    fn file(&self) -> Option<&Path> {
        self.data.as_deref().filter(|path| *path != Path::new("-"))
    }
}

/// All of standard input.
fn standard_input() -> Result<String> {
    let mut input = std::io::stdin();
    if input.is_terminal() {
        console::message("reading standard input, to its end (Ctrl-D)");
    }
    let mut text = String::new();
    let read = input.read_to_string(&mut text);
    read.map_err(|source| Error::Io { action: "read standard input as UTF-8 text".into(), source })?;
    Ok(text)
}
