//! Labelled examples, read from and written to files with named columns: `.jsonl`, `.csv` and `.tsv`.
//!
//! - `.jsonl`: one object per line; texts are strings, labels strings, numbers or booleans, choices a list of strings.
//! - `.csv`: a header, then rows, as RFC 4180 has them: commas, and quotes around fields that need them.
//! - `.tsv`: a header, then rows; tabs separate and quotes are characters like any other (IANA's definition).
//!
//! In `.csv` and `.tsv` the choices are columns named by a number at the end, from 0 or from 1 on: `choices0`,
//! `choices1`, ... Which choice is right is told by a number: the column's, or the place in the list, counted from 0.
//!
//! Lines are counted from 1, the header's line included. Empty lines are skipped, and columns not asked for are
//! ignored.

mod read;
pub mod sequences;
pub mod target;
mod write;

pub use self::read::{Render, read, read_lines, read_rendered};
pub use self::write::write;

use std::path::Path;

use crate::{error::Result, fail};

/// The question that is asked about an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Which class a text is of.
    Classify,
    /// How a hypothesis stands to a premise.
    Entail,
    /// Whether, or how much, two texts mean the same.
    Similar,
    /// Which of several choices fits a context.
    Choose,
}

impl Task {
    pub const ALL: [Task; 4] = [Task::Classify, Task::Entail, Task::Similar, Task::Choose];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Task::Classify => "classify",
            Task::Entail => "entail",
            Task::Similar => "similar",
            Task::Choose => "choose",
        }
    }

    /// The task of that name.
    pub fn named(name: &str) -> Result<Task> {
        let found = Task::ALL.into_iter().find(|task| task.name() == name);
        let Some(task) = found else {
            let names = Task::ALL.map(Task::name).join(", ");
            fail!(Usage, "there is no task {name}; there are {names}");
        };
        Ok(task)
    }

    /// The columns of its files, under the names that the options have.
    pub fn form(self) -> Form {
        let texts: &[&'static str] = match self {
            Task::Classify => &["text"],
            Task::Entail => &["premise", "hypothesis"],
            Task::Similar => &["first", "second"],
            Task::Choose => &["context"],
        };
        let choices = (self == Task::Choose).then(|| Column::new("choices"));
        Form { texts: texts.iter().map(|option| Column::new(option)).collect(), choices, label: Column::new("label") }
    }
}

/// A column of a file, and the option that names it: `--premise sentence1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub option: &'static str,
    pub name: String,
}

impl Column {
    /// A column that is called as its option.
    pub fn new(option: &'static str) -> Column {
        Column { option, name: option.into() }
    }
}

/// The columns that a task reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    pub texts: Vec<Column>,
    /// The list of choices, or the prefix of numbered columns.
    pub choices: Option<Column>,
    pub label: Column,
}

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Its line in the file, counted from 1; 0 if it is from nowhere.
    pub line: usize,
    /// The texts of the form's columns, in their order; none is empty.
    pub texts: Vec<String>,
    /// At least two where the form has choices, else none.
    pub choices: Vec<String>,
    /// The label as it is written; where there are choices, the number of the right one in `choices`, counted from 0.
    pub label: Option<String>,
    /// Whether its text is a dialogue as a chat template writes it, which has its own tokens around it.
    pub rendered: bool,
}

impl Example {
    /// The right one of the choices, counted from 0.
    pub fn right(&self) -> Option<usize> {
        self.label.as_deref()?.parse().ok().filter(|right| *right < self.choices.len())
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Format {
    Lines,
    Commas,
    Tabs,
}

/// The format that the file's extension says.
fn format(path: &Path) -> Result<Format> {
    let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase);
    match extension.as_deref() {
        Some("jsonl") => Ok(Format::Lines),
        Some("csv") => Ok(Format::Commas),
        Some("tsv") => Ok(Format::Tabs),
        _ => fail!(Usage, "{} is neither .jsonl, .csv nor .tsv; name it by its format", path.display()),
    }
}
