//! The target of a task's head, and the right answers of labelled examples.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Column, Example, Form, Task};
use crate::error::{Error, Result};
use crate::fail;
use crate::files::one_line;

/// The option that names a choice task's question, which not every file has.
const QUESTION: &str = "question";
/// More labels than this are a mistake: a column of texts or numbers.
const MOST_LABELS: usize = 1000;
/// Labels that a message lists.
const SHOWN: usize = 8;

/// The number of choices of a head that is for any, as those of `transformers`.
pub const ANY: usize = 0;

/// The target of a head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// One of these labels, by index.
    Labels(Vec<String>),
    /// A number.
    Grade,
    /// One of so many choices, by index; of [`ANY`] until there are examples.
    Choices(usize),
}

/// The right answer of one example.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Answer {
    /// Index of a label or a choice.
    Class(usize),
    Grade(f32),
}

/// The columns of a task's files. `names` has the name of a column by its option, where that is not the option itself; a
/// question is only read where it has a name.
pub fn form(task: Task, names: &BTreeMap<String, String>) -> Result<Form> {
    let mut form = task.form();
    let columns = form.texts.iter_mut().chain(&mut form.choices).chain([&mut form.label]);
    let mut known = vec![];
    for column in columns {
        known.push(column.option);
        if let Some(name) = names.get(column.option) {
            column.name.clone_from(name);
        }
    }
    if task == Task::Choose {
        known.push(QUESTION);
        if let Some(name) = names.get(QUESTION) {
            form.texts.push(Column { option: QUESTION, name: name.clone() });
        }
    }
    if let Some(option) = names.keys().find(|option| !known.contains(&option.as_str())) {
        let known = known.iter().map(|option| format!("--{option}")).collect::<Vec<_>>().join(", ");
        fail!(Usage, "--task {} has no column --{option}: its columns are {known}", task.name());
    }
    Ok(form)
}

impl Target {
    /// The target of training examples: their labels, grades if asked for, or the number of the right choice.
    pub fn of(task: Task, grades: bool, examples: &[Example], path: &Path) -> Result<Target> {
        if grades && task != Task::Similar {
            fail!(Usage, "--grades is for --task similar; --task {} has labels", task.name());
        }
        let path = path.display();
        match task {
            Task::Choose => Ok(Target::Choices(examples.first().map_or(0, |e| e.choices.len()))),
            _ if grades => Ok(Target::Grade),
            _ => {
                let mut labels: Vec<&str> = examples.iter().filter_map(|e| e.label.as_deref()).collect();
                labels.sort_by(|a, b| by_number(a, b));
                labels.dedup();
                match labels[..] {
                    [] => fail!(Input, "{path} has no labels to learn"),
                    [one] => fail!(
                        Input,
                        "every row of {path} has the label `{}`: there must be at least two to tell apart",
                        one_line(one)
                    ),
                    _ if labels.len() > MOST_LABELS => fail!(
                        Input,
                        "{path} has {} different labels and at most {MOST_LABELS} can be told apart: name another column \
                         with --label, or learn numbers with --grades",
                        labels.len()
                    ),
                    _ => Ok(Target::Labels(labels.into_iter().map(str::to_string).collect())),
                }
            }
        }
    }

    /// The same for examples: a head for any number of choices decides between as many as the first one has.
    pub fn settled(self, examples: &[Example]) -> Target {
        match self {
            Target::Choices(ANY) => Target::Choices(examples.first().map_or(ANY, |example| example.choices.len())),
            other => other,
        }
    }

    /// Labels or choices to choose from; none for grades.
    pub fn classes(&self) -> Option<usize> {
        match self {
            Target::Labels(labels) => Some(labels.len()),
            Target::Grade => None,
            Target::Choices(choices) => Some(*choices),
        }
    }

    /// The right answer of an example from `path`, where it has a label; errors name the line.
    pub fn answer(&self, example: &Example, path: &Path) -> Result<Option<Answer>> {
        let place = || format!("line {} of {}", example.line, path.display());
        if let Target::Choices(choices) = self
            && example.choices.len() != *choices
        {
            let found = example.choices.len();
            fail!(Input, "{} has {found} choices and the head decides between {choices}", place());
        }
        let Some(label) = example.label.as_deref() else { return Ok(None) };
        let answer = match self {
            Target::Labels(labels) => {
                let Some(class) = labels.iter().position(|known| known == label) else {
                    let (label, known) = (one_line(label), shown(labels));
                    fail!(Input, "the label `{label}` in {} is not one that the head knows: {known}", place());
                };
                Answer::Class(class)
            }
            Target::Grade => match label.parse::<f32>() {
                Ok(grade) if grade.is_finite() => Answer::Grade(grade),
                _ => fail!(Input, "the grade `{}` in {} is not a number", one_line(label), place()),
            },
            Target::Choices(_) => Answer::Class(example.right().ok_or_else(|| {
                Error::Input(format!("the label `{}` in {} is not the number of a choice", one_line(label), place()))
            })?),
        };
        Ok(Some(answer))
    }
}

/// Numbers in their order before all else.
fn by_number(a: &str, b: &str) -> std::cmp::Ordering {
    let number = |text: &str| text.parse::<f64>().unwrap_or(f64::INFINITY);
    number(a).total_cmp(&number(b)).then_with(|| a.cmp(b))
}

fn shown(labels: &[String]) -> String {
    let first = labels.iter().take(SHOWN).map(|label| one_line(label)).collect::<Vec<_>>().join(", ");
    if labels.len() > SHOWN { format!("{first} and {} more", labels.len() - SHOWN) } else { first }
}

impl Answer {
    /// The class, of an answer that is one.
    pub fn class(self) -> usize {
        match self {
            Answer::Class(class) => class,
            Answer::Grade(_) => panic!("a grade is no class"),
        }
    }

    /// The grade, of an answer that is one.
    pub fn grade(self) -> f32 {
        match self {
            Answer::Grade(grade) => grade,
            Answer::Class(_) => panic!("a class is no grade"),
        }
    }
}
