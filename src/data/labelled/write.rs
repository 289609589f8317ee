//! Writing, so that `read` gives the same examples back.

use std::io::{self, Write};
use std::path::Path;

use serde_json::{Value, json};

use super::{Example, Form, Format, format};
use crate::{error::Result, fail, files::write_atomic};

/// Replaces the file by the examples.
pub fn write(path: &Path, form: &Form, examples: &[Example]) -> Result<()> {
    match format(path)? {
        Format::Lines => write_atomic(path, |file| {
            examples.iter().try_for_each(|example| writeln!(file, "{}", object(form, example)))
        }),
        Format::Commas => write_atomic(path, |file| table(file, b',', csv::QuoteStyle::Necessary, form, examples)),
        Format::Tabs => {
            let mut texts = examples.iter().flat_map(|example| example.texts.iter().chain(&example.choices));
            if texts.any(|text| text.contains(['\t', '\n', '\r'])) {
                fail!(
                    Input,
                    "{}: .tsv cannot hold texts with tabs or line breaks; take .csv or .jsonl",
                    path.display()
                );
            }
            write_atomic(path, |file| table(file, b'\t', csv::QuoteStyle::Never, form, examples))
        }
    }
}

/// An object with its fields in the order of the form.
fn object(form: &Form, example: &Example) -> String {
    let texts = form.texts.iter().zip(&example.texts).map(|(column, text)| (&column.name, json!(text)));
    let choices = form.choices.iter().map(|column| (&column.name, json!(example.choices)));
    let label = example.label.iter().map(|label| {
        let right = example.right().filter(|_| form.choices.is_some());
        (&form.label.name, right.map_or_else(|| json!(label), |right| json!(right)))
    });
    let field = |(name, value): (&String, Value)| format!("{}: {value}", Value::from(name.as_str()));
    let fields: Vec<String> = texts.chain(choices).chain(label).map(field).collect();
    format!("{{{}}}", fields.join(", "))
}

fn table(
    file: &mut impl Write,
    delimiter: u8,
    quotes: csv::QuoteStyle,
    form: &Form,
    examples: &[Example],
) -> io::Result<()> {
    let mut writer = csv::WriterBuilder::new().delimiter(delimiter).quote_style(quotes).from_writer(file);
    let choices = examples.iter().map(|example| example.choices.len()).max().unwrap_or(0);
    let names = form.texts.iter().map(|column| column.name.clone());
    let numbered = form.choices.iter().flat_map(|column| (0..choices).map(|n| format!("{}{n}", column.name)));
    writer.write_record(names.chain(numbered).chain([form.label.name.clone()]))?;
    for example in examples {
        let empty = std::iter::repeat_n("", choices - example.choices.len());
        let texts = example.texts.iter().chain(&example.choices).map(String::as_str);
        writer.write_record(texts.chain(empty).chain([example.label.as_deref().unwrap_or_default()]))?;
    }
    writer.flush()
}
