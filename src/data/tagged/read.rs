//! Reading: every tag is checked, and an error names its line.

use std::path::Path;

use serde_json::{Map, Value};

use super::tags::{Fault, Scheme};
use super::{Form, Format, Sentence, format};
use crate::data::lines::{self, Row, place};
use crate::error::{Error, Result};
use crate::fail;
use crate::files::one_line;

const ROW: Row =
    Row { one: "sentence", many: "sentences", form: "an object with `tokens` and `tags`, lists of the same length" };
/// The name that `tags` has in files of the Hugging Face libraries.
const OTHER_TAGS: &str = "ner_tags";
/// Begins a document in CoNLL's files.
const DOCUMENT: &str = "-DOCSTART-";

/// All sentences of a file. With `labels` each must have tags; without, they are read where there are some.
pub fn read(path: &Path, form: &Form, labels: bool) -> Result<Vec<Sentence>> {
    let is_words = format(path)? == Format::Words;
    let sentences = if is_words { words(path, labels)? } else { objects(path, form, labels)? };
    if sentences.is_empty() {
        fail!(Input, "{} has no sentences in it", path.display());
    }
    check_tags(path, &sentences, is_words)?;
    Ok(sentences)
}

/// The sentences of CoNLL's lines.
fn words(path: &Path, labels: bool) -> Result<Vec<Sentence>> {
    let text = lines::text(path, ROW.many)?;
    // Columns of each line that has a word.
    let columns: Vec<(usize, Vec<&str>)> = (1..).zip(text.lines()).map(|(line, text)| (line, split(text))).collect();
    let is_word = |columns: &[&str]| columns.first().is_some_and(|word| *word != DOCUMENT);
    let tagged = labels || columns.iter().any(|(_, columns)| is_word(columns) && columns.len() > 1);
    let mut sentences = vec![];
    for block in columns.chunk_by(|(_, a), (_, b)| is_word(a) && is_word(b)).filter(|block| is_word(&block[0].1)) {
        let mut tags = vec![];
        for (line, columns) in block.iter().filter(|_| tagged) {
            let [_, .., tag] = columns[..] else {
                let place = place(path, *line);
                fail!(Input, "{place} has a word and no tag: put a tag in the last column of every word's line");
            };
            tags.push(tag.to_string());
        }
        let words = block.iter().map(|(_, columns)| columns[0].to_string()).collect();
        sentences.push(Sentence { line: block[0].0, words, tags: tagged.then_some(tags) });
    }
    Ok(sentences)
}

/// The columns of a line: what is between tabs, or else between spaces.
fn split(line: &str) -> Vec<&str> {
    let separator = if line.trim().contains('\t') { '\t' } else { ' ' };
    line.split(separator).map(str::trim).filter(|column| !column.is_empty()).collect()
}

/// The sentences of rows.
fn objects(path: &Path, form: &Form, labels: bool) -> Result<Vec<Sentence>> {
    let sentence = |(line, object): (usize, Map<String, Value>)| {
        let place = place(path, line);
        let list = |name: &str, what: &str| match object.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match serde_json::from_value::<Vec<String>>(value.clone()) {
                Ok(list) => Ok(Some(list)),
                Err(_) if value[0].is_number() && what == "tags" => {
                    fail!(Input, "`{name}` in {place} are numbers: write the tags by name, such as B-PER")
                }
                Err(_) => fail!(Input, "`{name}` in {place} is not a list of texts, one for each word"),
            },
        };
        let missing = |column: &super::Column| {
            let super::Column { option, name } = column;
            Error::Input(format!("{place} has no `{name}`; add it, or name its column with --{option}"))
        };
        let words = list(&form.tokens.name, "words")?.ok_or_else(|| missing(&form.tokens))?;
        let mut tags = list(&form.tags.name, "tags")?;
        if tags.is_none() && form.tags == Form::default().tags {
            tags = list(OTHER_TAGS, "tags")?;
        }
        if tags.is_none() && labels {
            return Err(missing(&form.tags));
        }
        if let Some(tags) = tags.as_ref().filter(|tags| tags.len() != words.len()) {
            fail!(Input, "{place} has {} words and {} tags: give each word one", words.len(), tags.len());
        }
        if words.is_empty() || words.iter().any(|word| word.trim().is_empty()) {
            fail!(
                Input,
                "`{}` in {place} has no words, or an empty one: fill it in or remove the row",
                form.tokens.name
            );
        }
        Ok(Sentence { line, words, tags })
    };
    lines::read(path, ROW)?.into_iter().map(sentence).collect()
}

/// Refuses tags that are not IOB2's; `by_line` says that a sentence has a line for each word.
fn check_tags(path: &Path, sentences: &[Sentence], by_line: bool) -> Result<()> {
    let mut scheme = Scheme::default();
    for sentence in sentences {
        if let Some(tags) = &sentence.tags {
            scheme.add(tags, &|word| if by_line { sentence.line + word } else { sentence.line });
        }
    }
    match scheme.fault() {
        None => Ok(()),
        Some(Fault::Unknown { line, tag }) => {
            let (place, tag) = (place(path, line), one_line(&tag));
            fail!(Input, "the tag `{tag}` in {place} is neither O, B-TYPE nor I-TYPE: write IOB2's tags")
        }
        Some(Fault::Iob1 { line }) => fail!(
            Input,
            "{} has IOB1's tags, in which an entity begins with I- (as in line {line}): convert them to IOB2, where it begins with B-",
            path.display()
        ),
        Some(Fault::Jump { line, tag, before }) => {
            let (place, tag, before) = (place(path, line), one_line(&tag), one_line(&before));
            let begin = tag.replacen('I', "B", 1);
            fail!(
                Input,
                "the tag `{tag}` in {place} continues no entity, as the tag before it is `{before}`: write `{begin}` where one begins"
            )
        }
    }
}
