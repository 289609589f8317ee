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
use wgpt::evaluate::plot::AccuracyPlot;
use wgpt::evaluate::prompt::{Prompter, SEPARATOR, Shots};
use wgpt::evaluate::scorer::Scorer;
use wgpt::fail;
use wgpt::files::{write_atomic, write_bytes};
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
    if let Some(shots) = eval.shots.iter().find(|shots| **shots > train.len()) {
        let train = eval.train.as_deref().unwrap_or(Path::new("--train")).display();
        fail!(Input, "{train} has fewer examples than the {shots} that --shots asks for");
    }
    let tokenizer = model.tokenizer()?.for_model(config.vocab_size, &model.path(""))?;
    let mut executor = global.open()?;
    let network = Network::new(config.clone());
    let mut scorer = Scorer::new(executor.as_mut(), &network, weights, eval.batch);
    let requests: usize = examples.iter().map(|example| example.choices.len().max(1)).sum();
    let bar = progress(global, (requests * eval.shots.len()) as u64);
    let (mut results, mut points) = (vec![], vec![]);
    for &count in &eval.shots {
        let shots = Shots {
            count,
            examples: &train,
            seed: eval.seed.unwrap_or(1337).into(),
            separator: eval.separator.as_deref().unwrap_or(SEPARATOR),
        };
        let mut prompter = Prompter { tokenizer: &tokenizer, context: config.context, cut: 0 };
        let data = (&examples[..], place.as_str());
        let mut done = |requests: usize| bar.inc(requests as u64);
        let (mut result, accuracy) = eval.answers(&mut scorer, &mut prompter, data, &shots, &mut done)?;
        let cut = prompter.cut;
        if cut > 0 {
            let context = config.context;
            let of = if eval.shots.len() > 1 { format!(" with {count} solved examples") } else { String::new() };
            global.say(&format!(
                "warning: {cut} of {requests} texts{of} were cut at their beginning to {context} tokens"
            ));
        }
        result["examples"] = examples.len().into();
        result["shots"] = count.into();
        result["cut"] = cut.into();
        results.push(result);
        points.push((count as f64, accuracy));
    }
    bar.finish_and_clear();
    if let Some(path) = &eval.plot {
        // Last words are of a whole vocabulary.
        let answers =
            |example: &Example| if eval.task == Kind::Choose { example.choices.len() } else { config.vocab_size };
        let chance = examples.iter().map(|e| 1.0 / answers(e) as f64).sum::<f64>() / examples.len() as f64;
        let curves = [(String::new(), points)];
        let (over, things) = ("solved examples before a question", examples.len());
        let plot = AccuracyPlot { title: "accuracy by solved examples", over, things, chance, curves: &curves };
        write_bytes(path, plot.render().as_bytes())?;
    }
    match &results[..] {
        [one] if eval.json => console::line(format_args!("{one:#}")),
        [one] => console::data(&for_people(one)),
        all if eval.json => console::line(format_args!("{:#}", Value::from(all))),
        all => console::data(&table(all)),
    }
}

impl Eval {
    /// Figures, and the accuracy by the highest sum, of all examples with so many solved ones before each.
    fn answers(
        &self,
        scorer: &mut Scorer,
        prompter: &mut Prompter,
        data: (&[Example], &str),
        shots: &Shots,
        done: &mut dyn FnMut(usize),
    ) -> Result<(Value, Accuracy)> {
        if self.task == Kind::Choose {
            let chosen = choose(scorer, prompter, data, shots, done)?;
            self.write_items(&chosen)?;
            let Accuracies { summed, per_character, per_byte } = Accuracies::of(&chosen);
            let figures = [("accuracy", summed), ("per_character", per_character), ("per_byte", per_byte)];
            let figures = figures.map(|(name, accuracy)| (name.to_string(), figure(accuracy)));
            return Ok((Value::Object(figures.into_iter().collect()), summed));
        }
        let completed = complete(scorer, prompter, data, shots, done)?;
        self.write_items(&completed)?;
        let (accuracy, perplexity) = figures(&completed)?;
        Ok((json!({ "accuracy": figure(accuracy), "perplexity": perplexity }), accuracy))
    }

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

/// What people call the measures.
const MEASURES: [(&str, &str); 3] = [
    ("accuracy", "accuracy"),
    ("per_character", "accuracy by the mean per character"),
    ("per_byte", "accuracy by the mean per byte"),
];

/// A measure with its standard error, where the result has it.
fn shown(result: &Value, key: &str) -> Option<String> {
    let mean = result[key]["mean"].as_f64()?;
    let error = result[key]["standard_error"].as_f64();
    Some(format!("{mean:.4}{}", error.map_or(String::new(), |error| format!(" ± {error:.4}"))))
}

/// The result for people.
fn for_people(result: &Value) -> String {
    let lines = MEASURES.iter().filter_map(|(key, name)| Some(format!("{name}: {}\n", shown(result, key)?)));
    let mut text: String = lines.collect();
    if let Some(perplexity) = result["perplexity"].as_f64() {
        text += &format!("perplexity: {perplexity:.4}\n");
    }
    text + &format!("examples: {}\n", result["examples"])
}

/// Results over numbers of solved examples, as a table in Markdown.
fn table(results: &[Value]) -> String {
    let columns: Vec<_> = MEASURES.iter().filter(|(key, _)| results[0].get(key).is_some()).collect();
    let names: String = columns.iter().map(|(_, name)| format!(" {name} |")).collect();
    let mut text = format!("| solved examples |{names} texts cut |\n|---|{}---|\n", "---|".repeat(columns.len()));
    for result in results {
        let cells: String =
            columns.iter().map(|(key, _)| format!(" {} |", shown(result, key).unwrap_or_default())).collect();
        text += &format!("| {} |{cells} {} |\n", result["shots"], result["cut"]);
    }
    text + &format!("\n{} questions\n", results[0]["examples"])
}
