//! `wgpt eval --task choose` and `--task cloze`: the model's answers to examples that it was not fine-tuned for.

use super::super::{Global, console};
use super::{Eval, Kind, progress};
use serde::Serialize;
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use wgpt::data::corpora::story;
use wgpt::data::corpora::tasks::{self, Split};
use wgpt::data::labelled::{Column, Example, Form, Task, read};
use wgpt::error::Result;
use wgpt::evaluate::Accuracy;
use wgpt::evaluate::choose::{Accuracies, choose};
use wgpt::evaluate::cloze::{complete, figures};
use wgpt::evaluate::prompt::{Prompter, SEPARATOR, Shots};
use wgpt::evaluate::scorer::Scorer;
use wgpt::fail;
use wgpt::files::write_atomic;
use wgpt::formats::folder::Weights;
use wgpt::formats::source::ModelSource;
use wgpt::models::config::Config;
use wgpt::models::network::Network;

/// Built-in examples that are evaluated where no data is named.
const EXAMPLES: usize = 400;

/// Prints accuracies, and the perplexity of last words.
pub fn evaluate(eval: &Eval, global: &Global, model: &ModelSource, config: &Config, weights: &Weights) -> Result<()> {
    let form = eval.form();
    let labels = form.choices.is_some();
    let (mut examples, place) = match &eval.data {
        Some(path) => (read(path, &form, labels)?, path.display().to_string()),
        None => (built_in(eval.task), "the built-in examples".to_string()),
    };
    examples.truncate(eval.limit.unwrap_or(examples.len()));
    let train = match &eval.train {
        Some(path) => read(path, &form, labels)?,
        None => vec![],
    };
    if train.len() < eval.shots {
        let train = eval.train.as_deref().unwrap_or(Path::new("--train")).display();
        fail!(Input, "{train} has fewer examples than the {} that --shots asks for", eval.shots);
    }
    let shots = Shots {
        count: eval.shots,
        examples: &train,
        seed: eval.seed.unwrap_or(1337).into(),
        separator: eval.separator.as_deref().unwrap_or(SEPARATOR),
    };
    let tokenizer = model.tokenizer()?.for_model(config.vocab_size, &model.path(""))?;
    let mut prompter = Prompter { tokenizer: &tokenizer, context: config.context, cut: 0 };
    let mut executor = global.open()?;
    let network = Network::new(config.clone());
    let mut scorer = Scorer::new(executor.as_mut(), &network, weights, eval.batch);
    let requests: usize = examples.iter().map(|example| example.choices.len().max(1)).sum();
    let bar = progress(global, requests as u64);
    let mut done = |requests: usize| bar.inc(requests as u64);
    let data = (&examples[..], place.as_str());
    let mut result = if eval.task == Kind::Choose {
        let chosen = choose(&mut scorer, &mut prompter, data, &shots, &mut done)?;
        eval.write_items(&chosen)?;
        let Accuracies { summed, per_character, per_byte } = Accuracies::of(&chosen);
        json!({ "accuracy": figure(summed), "per_character": figure(per_character), "per_byte": figure(per_byte) })
    } else {
        let completed = complete(&mut scorer, &mut prompter, data, &shots, &mut done)?;
        eval.write_items(&completed)?;
        let (accuracy, perplexity) = figures(&completed)?;
        json!({ "accuracy": figure(accuracy), "perplexity": perplexity })
    };
    bar.finish_and_clear();
    let cut = prompter.cut;
    if cut > 0 {
        let context = config.context;
        global.say(&format!("warning: {cut} of {requests} texts were cut at their beginning to {context} tokens"));
    }
    result["examples"] = examples.len().into();
    result["shots"] = eval.shots.into();
    result["cut"] = cut.into();
    if eval.json { console::line(format_args!("{result:#}")) } else { console::data(&for_people(&result)) }
}

impl Eval {
    /// The columns to read.
    fn form(&self) -> Form {
        if self.task == Kind::Cloze {
            let text = renamed("text", &self.text);
            return Form { texts: vec![text], choices: None, label: Column::new("label") };
        }
        let mut texts = vec![renamed("context", &self.context)];
        texts.extend(self.question.iter().map(|name| Column { option: "question", name: name.clone() }));
        Form { texts, choices: Some(renamed("choices", &self.choices)), label: renamed("label", &self.label) }
    }

    fn write_items(&self, items: &[impl Serialize]) -> Result<()> {
        let Some(path) = &self.items else { return Ok(()) };
        write_atomic(path, |file| {
            items.iter().try_for_each(|item| {
                serde_json::to_writer(&mut *file, item)?;
                writeln!(file)
            })
        })
    }
}

fn renamed(option: &'static str, name: &Option<String>) -> Column {
    Column { option, name: name.clone().unwrap_or_else(|| option.into()) }
}

fn built_in(task: Kind) -> Vec<Example> {
    if task == Kind::Choose {
        return tasks::examples(Task::Choose, Split::Test, 0, EXAMPLES);
    }
    let text = story::validation_text(0, super::perplexity::STORY_BYTES);
    let stories = (1..).zip(text.lines()).take(EXAMPLES);
    stories
        .map(|(line, story)| Example { line, texts: vec![story.into()], choices: vec![], label: None, rendered: false })
        .collect()
}

fn figure(accuracy: Accuracy) -> Value {
    json!({ "mean": accuracy.mean, "standard_error": accuracy.error })
}

/// The result for people.
fn for_people(result: &Value) -> String {
    let mut text = String::new();
    let names = [
        ("accuracy", "accuracy"),
        ("per_character", "accuracy by the mean per character"),
        ("per_byte", "accuracy by the mean per byte"),
    ];
    for (key, name) in names {
        let Some(mean) = result[key]["mean"].as_f64() else { continue };
        let error = result[key]["standard_error"].as_f64();
        let error = error.map_or(String::new(), |error| format!(" ± {error:.4}"));
        text += &format!("{name}: {mean:.4}{error}\n");
    }
    if let Some(perplexity) = result["perplexity"].as_f64() {
        text += &format!("perplexity: {perplexity:.4}\n");
    }
    text + &format!("examples: {}\n", result["examples"])
}
