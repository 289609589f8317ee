//! The built-in tasks as text: an input that says what is asked, and the text that answers it.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use wgpt::data::corpora::tasks::{Split, examples, spans};
use wgpt::data::labelled::Task;
use wgpt::data::tagged::tags;
use wgpt::error::{Error, Result};

/// The share of right answers by task, in percent.
pub type Shares = BTreeMap<String, f64>;

/// Seed of the examples.
const SEED: u64 = 1;
/// Where nothing in the text answers a question.
const NOWHERE: &str = "nowhere";

/// `count` examples of each task, one after another, as `.jsonl` with `task`, `input` and `target`.
pub fn lines(tasks: &[&str], split: Split, count: usize) -> Result<String> {
    let mut lines = String::new();
    for task in tasks {
        for (input, target) in pairs(task, split, count)? {
            let input = format!("{task}: {input}");
            lines.push_str(&format!("{}\n", json!({"task": task, "input": input, "target": target})));
        }
    }
    Ok(lines)
}

/// The texts of training examples, to make a tokenizer that knows their words.
pub fn words(tasks: &[&str], count: usize) -> Result<String> {
    let mut words = String::new();
    for task in tasks {
        for (input, target) in pairs(task, Split::Train, count)? {
            words.push_str(&format!("{task}: {input}\n{target}\n"));
        }
    }
    Ok(words)
}

/// Of the lines of [`lines`] and those of `wgpt predict`, the share of texts that are the same.
pub fn shares(asked: &str, answered: &str) -> Result<Shares> {
    let parsed = |line: &str| {
        serde_json::from_str::<Value>(line).map_err(|why| Error::Input(format!("{line:?} is not JSON: {why}")))
    };
    let mut counts = BTreeMap::<String, (f64, f64)>::new();
    for (asked, answered) in asked.lines().zip(answered.lines()) {
        let (asked, answered) = (parsed(asked)?, parsed(answered)?);
        let (right, all) = counts.entry(asked["task"].as_str().unwrap_or_default().to_string()).or_default();
        *right += f64::from(u8::from(asked["target"] == answered["text"]));
        *all += 1.0;
    }
    Ok(counts.into_iter().map(|(task, (right, all))| (task, 100.0 * right / all)).collect())
}

/// Inputs and targets of a task.
fn pairs(task: &str, split: Split, count: usize) -> Result<Vec<(String, String)>> {
    match task {
        "tag" => Ok(spans::sentences(split, SEED, count)
            .into_iter()
            .map(|sentence| {
                let tags = sentence.tags.unwrap_or_default();
                let named = tags::spans(&tags).into_iter().map(|span| {
                    let words = sentence.words[span.words.0..span.words.1].join(" ");
                    format!("{words} {}", span.kind)
                });
                (sentence.words.join(" "), named.collect::<Vec<_>>().join(" "))
            })
            .collect()),
        "answer" => Ok(spans::questions(split, SEED, count)
            .into_iter()
            .map(|question| {
                let answer = question.texts().first().copied().unwrap_or(NOWHERE).to_string();
                (format!("{} {}", question.question, question.context), answer)
            })
            .collect()),
        _ => Ok(examples(Task::named(task)?, split, SEED, count)
            .into_iter()
            .map(|example| {
                let choices = example.choices.iter().zip(["a", "b", "c", "d"]);
                let choices = choices.map(|(choice, letter)| format!(" {letter}: {choice}")).collect::<String>();
                let label = example.label.unwrap_or_default();
                let letter = label.parse::<usize>().ok().map(|n| ["a", "b", "c", "d"][n].to_string());
                (format!("{}{choices}", example.texts.join(" ")), letter.unwrap_or(label))
            })
            .collect()),
    }
}
