//! Reading: every row is checked, and an error names its line.

use std::path::Path;

use serde_json::{Map, Value};

use super::{Column, Example, Form, Format, format};
use crate::{
    data::{chat_template::Message, lines, pieces::BYTE_ORDER_MARK},
    error::{Error, Result},
    fail,
    files::one_line,
};

/// Writes a list of messages as a text.
pub type Render<'a> = dyn Fn(&[Message]) -> Result<String> + 'a;

/// All rows of a file. With `labels` each must have a label; without, one is read where there is one.
pub fn read(path: &Path, form: &Form, labels: bool) -> Result<Vec<Example>> {
    read_file(path, form, labels, None)
}

/// As [`read`] without labels, where texts of `.jsonl` may also be lists of messages.
pub fn read_rendered(path: &Path, form: &Form, render: Option<&Render>) -> Result<Vec<Example>> {
    read_file(path, form, false, render)
}

fn read_file(path: &Path, form: &Form, labels: bool, render: Option<&Render>) -> Result<Vec<Example>> {
    let format = format(path)?;
    let text = lines::text(path, "examples")?;
    let reader = Reader { path, form, labels, render };
    let examples = match format {
        Format::Lines => reader.objects(&text)?,
        Format::Commas => reader.table(&text, b',')?,
        Format::Tabs => reader.table(&text, b'\t')?,
    };
    if examples.is_empty() {
        fail!(Input, "{} has no examples in it", path.display());
    }
    Ok(examples)
}

/// The rows of a text that is typed or piped: lines of JSON objects, or lines of the form's texts with tabs between them.
/// `name` is its name in errors. Labels are read where there are some. Texts of objects may also be lists of messages.
pub fn read_lines(name: &Path, text: &str, form: &Form, render: Option<&Render>) -> Result<Vec<Example>> {
    let reader = Reader { path: name, form, labels: false, render };
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let examples = lines.map(|(number, line)| reader.line(number, line)).collect::<Result<Vec<_>>>()?;
    if examples.is_empty() {
        fail!(Input, "{} has no examples in it", name.display());
    }
    Ok(examples)
}

struct Reader<'a> {
    path: &'a Path,
    form: &'a Form,
    labels: bool,
    render: Option<&'a Render<'a>>,
}

impl Reader<'_> {
    fn objects(&self, text: &str) -> Result<Vec<Example>> {
        let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
        lines.map(|(number, line)| self.object(number, line)).collect()
    }

    fn line(&self, line: usize, text: &str) -> Result<Example> {
        if text.trim_start().starts_with('{') {
            return self.object(line, text);
        }
        let (place, wanted) = (self.place(line), self.form.texts.len());
        if self.form.choices.is_some() {
            fail!(Input, "{place} is not a JSON object, which choices are given in");
        }
        // One text may have tabs in it.
        let fields: Vec<&str> = if wanted == 1 { vec![text] } else { text.split('\t').collect() };
        if fields.len() != wanted {
            fail!(Input, "{place} has {} texts and {wanted} are wanted: put a tab between them", fields.len());
        }
        let texts =
            self.form.texts.iter().zip(fields).map(|(column, text)| self.filled(&place, &column.name, text.into()));
        self.example(line, texts.collect::<Result<_>>()?, vec![], None, 0)
    }

    fn object(&self, line: usize, text: &str) -> Result<Example> {
        let place = self.place(line);
        let object: Map<String, Value> = serde_json::from_str(text).map_err(|cause| {
            let cause = one_line(&cause.to_string());
            Error::Input(format!("{place} is not a JSON object ({cause}); write one on each line"))
        })?;
        let string = |name: &str| match object.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => fail!(Input, "`{name}` in {place} is not a text; put it in quotes"),
        };
        let (mut texts, mut rendered) = (vec![], false);
        for column in &self.form.texts {
            if let (Some(render), Some(list @ Value::Array(_))) = (self.render, object.get(&column.name)) {
                texts.push(self.dialogue(&place, &column.name, (list, render))?);
                rendered = true;
                continue;
            }
            let Some(text) = string(&column.name)? else { return Err(missing(&place, column)) };
            texts.push(self.filled(&place, &column.name, text)?);
        }
        let (mut choices, mut first) = (vec![], 0);
        if let Some(column) = &self.form.choices {
            match object.get(&column.name) {
                Some(Value::Array(list)) => {
                    for choice in list {
                        let Value::String(choice) = choice else {
                            fail!(Input, "`{}` in {place} is not a list of texts", column.name);
                        };
                        choices.push(self.filled(&place, &column.name, choice.clone())?);
                    }
                }
                Some(_) => fail!(Input, "`{}` in {place} is not a list of texts", column.name),
                None => {
                    let has = |number: usize| object.contains_key(&numbered(column, number));
                    first = usize::from(!has(0));
                    for number in (first..).take_while(|number| has(*number)) {
                        let name = numbered(column, number);
                        let choice = string(&name)?.unwrap_or_default();
                        choices.push(self.filled(&place, &name, choice)?);
                    }
                    if choices.is_empty() {
                        return Err(missing(&place, column));
                    }
                }
            }
        }
        let name = &self.form.label.name;
        let label = match object.get(name) {
            None | Some(Value::Null) => None,
            Some(Value::String(label)) => Some(label.clone()),
            Some(label @ (Value::Number(_) | Value::Bool(_))) => Some(label.to_string()),
            Some(_) => fail!(Input, "`{name}` in {place} is neither a text nor a number"),
        };
        if label.is_none() && self.labels {
            return Err(missing(&place, &self.form.label));
        }
        Ok(Example { rendered, ..self.example(line, texts, choices, label, first)? })
    }

    /// The text of a list of messages.
    fn dialogue(&self, place: &str, name: &str, (list, render): (&Value, &Render)) -> Result<String> {
        let messages = serde_json::from_value::<Vec<Message>>(list.clone()).map_err(|cause| {
            let cause = one_line(&cause.to_string());
            Error::Input(format!(
                "`{name}` in {place} is no list of messages ({cause}): write `role` and `content` in each"
            ))
        })?;
        if messages.is_empty() {
            fail!(Input, "`{name}` in {place} is empty; fill it in or remove the row");
        }
        render(&messages).map_err(|error| error.in_place(place))
    }

    fn table(&self, text: &str, delimiter: u8) -> Result<Vec<Example>> {
        let mut builder = csv::ReaderBuilder::new();
        builder.delimiter(delimiter).quoting(delimiter == b',').flexible(true);
        let mut reader = builder.from_reader(text.as_bytes());
        let invalid = |cause: csv::Error| Error::Input(format!("{} cannot be read: {cause}", self.path.display()));
        let header = reader.headers().map_err(invalid)?.clone();
        let columns = self.columns(&header)?;
        let (mut examples, mut counted, mut line) = (vec![], 0, 1);
        for record in reader.records() {
            let record = record.map_err(invalid)?;
            // The position may stand before line breaks that end the row before.
            let start = record.position().map_or(0, |position| position.byte() as usize);
            let start = start + text[start..].bytes().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            line += newlines(&text.as_bytes()[counted..start]);
            counted = start;
            let place = self.place(line);
            if record.len() != header.len() {
                let (fields, columns) = (record.len(), header.len());
                fail!(Input, "{place} has {fields} fields and the header {columns}: one may be missing, or a quote");
            }
            examples.push(self.row(line, &header, &columns, &record)?);
        }
        Ok(examples)
    }

    fn row(
        &self,
        line: usize,
        header: &csv::StringRecord,
        columns: &Columns,
        record: &csv::StringRecord,
    ) -> Result<Example> {
        let place = self.place(line);
        let field = |at: usize| self.filled(&place, header[at].trim(), record[at].to_string());
        let texts = columns.texts.iter().map(|at| field(*at)).collect::<Result<_>>()?;
        // A row may have fewer choices than others: its last fields are empty then.
        let used = columns.choices.iter().rposition(|at| !record[*at].trim().is_empty()).map_or(0, |last| last + 1);
        let choices = columns.choices[..used].iter().map(|at| field(*at)).collect::<Result<_>>()?;
        let label = match columns.label {
            Some(at) if self.labels || !record[at].trim().is_empty() => Some(field(at)?),
            _ => None,
        };
        self.example(line, texts, choices, label, columns.first_choice)
    }

    /// Where the form's columns stand.
    fn columns(&self, header: &csv::StringRecord) -> Result<Columns> {
        let place = format!("the header of {}", self.path.display());
        let find = |name: &str| -> Result<Option<usize>> {
            let mut found = header.iter().enumerate().filter(|(_, field)| field.trim() == name).map(|(at, _)| at);
            let first = found.next();
            if found.next().is_some() {
                fail!(Input, "{place} has two columns called `{name}`; rename one");
            }
            Ok(first)
        };
        let absent = |column: &Column, what: &str| {
            let names = one_line(&header.iter().map(str::trim).collect::<Vec<_>>().join(", "));
            let Column { option, .. } = column;
            Error::Input(format!("{place} has no {what}, but {names}; say which it is with --{option}"))
        };
        let need =
            |column: &Column| find(&column.name)?.ok_or_else(|| absent(column, &format!("column `{}`", column.name)));
        let texts = self.form.texts.iter().map(need).collect::<Result<_>>()?;
        let (mut choices, mut first_choice) = (vec![], 0);
        if let Some(column) = &self.form.choices {
            first_choice = usize::from(find(&numbered(column, 0))?.is_none());
            for number in first_choice.. {
                let Some(at) = find(&numbered(column, number))? else { break };
                choices.push(at);
            }
            if choices.len() < 2 {
                let what = format!("columns `{}`, `{}`, ...", numbered(column, 0), numbered(column, 1));
                return Err(absent(column, &what));
            }
        }
        let label = if self.labels { Some(need(&self.form.label)?) } else { find(&self.form.label.name)? };
        Ok(Columns { texts, choices, first_choice, label })
    }

    /// Checks the label against the choices. The first choice has the number `first`.
    fn example(
        &self,
        line: usize,
        texts: Vec<String>,
        choices: Vec<String>,
        label: Option<String>,
        first: usize,
    ) -> Result<Example> {
        let place = self.place(line);
        let mut label = match label {
            Some(label) => Some(self.filled(&place, &self.form.label.name, label)?.trim().to_string()),
            None => None,
        };
        if self.form.choices.is_some() {
            if choices.len() < 2 {
                fail!(Input, "{place} has fewer than two choices");
            }
            if let Some(label) = &mut label {
                let last = first + choices.len() - 1;
                let right = label.parse().ok().filter(|number| (first..=last).contains(number));
                let Some(right) = right else {
                    let label = one_line(label);
                    fail!(Input, "the label `{label}` in {place} is not the number of a choice, {first} to {last}");
                };
                *label = (right - first).to_string();
            }
        }
        Ok(Example { line, texts, choices, label, rendered: false })
    }

    fn filled(&self, place: &str, name: &str, text: String) -> Result<String> {
        if text.trim().is_empty() {
            fail!(Input, "`{name}` in {place} is empty; fill it in or remove the row");
        }
        Ok(text)
    }

    fn place(&self, line: usize) -> String {
        format!("line {line} of {}", self.path.display())
    }
}

/// Where columns stand in a header.
struct Columns {
    texts: Vec<usize>,
    choices: Vec<usize>,
    first_choice: usize,
    label: Option<usize>,
}

fn numbered(column: &Column, number: usize) -> String {
    format!("{}{number}", column.name)
}

fn missing(place: &str, column: &Column) -> Error {
    let Column { option, name } = column;
    Error::Input(format!("{place} has no `{name}`; add it, or name its column with --{option}"))
}

fn newlines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}
