//! Chat templates: dialogues as text, by the Jinja templates of model folders, as Hugging Face transformers renders them.
//!
//! `trim_blocks`, `lstrip_blocks` and loop controls are on; `tojson` escapes nothing for HTML; `raise_exception` and
//! `strftime_now` exist, and the methods that Python's strings, lists and dicts have. A tag `{% generation %}` changes no text.

use std::io::{self, Write};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, ErrorKind, context};
use serde::{Deserialize, Serialize};
use serde_json::Serializer;
use serde_json::ser::{Formatter, PrettyFormatter};

use crate::error::{Error, Result};
use crate::files::one_line;

/// One message of a dialogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, or another that the template knows.
    pub role: String,
    pub content: String,
}

/// The role whose messages a model writes.
pub const ASSISTANT: &str = "assistant";
/// The role whose messages are questions.
pub const USER: &str = "user";

/// A compiled template with the tokens that it may name.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    bos: String,
    eos: String,
}

/// The template of a name that needs no folder.
pub fn built_in(name: &str) -> Option<&'static str> {
    match name {
        "chatml" => Some(CHATML),
        "plain" => Some(PLAIN),
        "lines" => Some(LINES),
        _ => None,
    }
}

/// ChatML, with tokens that a vocabulary should have: `<|im_start|>` and `<|im_end|>`.
const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + \
                      '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}\
                      {% endif %}";

/// A line for each message, in letters that almost every vocabulary has.
const PLAIN: &str = "{% for message in messages %}{% if message['role'] == 'assistant' %}A: {% elif message['role'] == 'user' \
                     %}Q: {% endif %}{{ message['content'] + '\\n' }}{% endfor %}{% if add_generation_prompt %}A: {% endif %}";

/// What the user says, a space, and the answer to the end of its line: for models of few characters.
const LINES: &str = "{% for message in messages %}{{ message['content'] }}{{ '\\n' if message['role'] == 'assistant' else ' ' }}\
                     {% endfor %}";

const NAME: &str = "chat template";

impl ChatTemplate {
    /// Compiles a template; `bos` and `eos` are the texts of its tokens, empty where there are none.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<ChatTemplate> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| failed(&error))?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", to_json);
        environment.add_function(
            "raise_exception",
            |message: String| -> std::result::Result<Value, minijinja::Error> {
                Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
            },
        );
        environment.add_function("strftime_now", |format: String| chrono::Local::now().format(&format).to_string());
        let text = without_generation_tags(source);
        environment.add_template_owned(NAME, text).map_err(|error| failed(&error))?;
        Ok(ChatTemplate { environment, source: source.into(), bos: bos.into(), eos: eos.into() })
    }

    /// The text of the template.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// A text without the template's end-of-text token at its end, where it has that there.
    pub fn without_end<'a>(&self, text: &'a str) -> Option<&'a str> {
        text.strip_suffix(&self.eos).filter(|_| !self.eos.is_empty())
    }

    /// The text of messages; `opened` by the beginning of an answer (`add_generation_prompt`).
    pub fn render(&self, messages: &[Message], opened: bool) -> Result<String> {
        let template = self.environment.get_template(NAME).map_err(|error| failed(&error))?;
        let (bos, eos) = (&self.bos, &self.eos);
        let given = context! {
            messages => Value::from(Serde(messages)),
            add_generation_prompt => opened,
            bos_token => bos,
            eos_token => eos,
        };
        template.render(given).map_err(|error| failed(&error))
    }
}

impl ChatTemplate {
    /// The template's text behind an answer, which ends the answer: a special token alone, where that is followed by spaces, which are
    /// not written before the next turn. `None` where the template writes nothing there.
    pub fn end_of_turn(&self, is_special: impl Fn(&str) -> bool) -> Result<Option<String>> {
        let message = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
        // A content that no template writes by itself.
        let content = "wgpt-answer";
        let text = self.render(&[message(USER, "a"), message(ASSISTANT, content)], false)?;
        let end = text.rsplit_once(content).map_or("", |(_, end)| end);
        let trimmed = end.trim_end();
        let end = if is_special(trimmed) { trimmed } else { end };
        Ok((!end.is_empty()).then(|| end.to_string()))
    }
}

/// The error of a template: its own message where it raises an exception.
fn failed(error: &minijinja::Error) -> Error {
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_string);
    let line = error.line().map_or(String::new(), |line| format!(", line {line}"));
    Error::Input(format!("the chat template cannot be rendered: {}{line}", one_line(&detail)))
}

/// `tojson` as transformers has it: Python's separators, no escapes for HTML, `indent` as a number of spaces.
fn to_json(value: &Value, options: Kwargs) -> std::result::Result<String, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let mut text = vec![];
    let written = match indent.map(|spaces| " ".repeat(spaces)) {
        Some(indent) => {
            let pretty = PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut text, pretty))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut text, Spaced)),
    };
    let failed = |why: String| minijinja::Error::new(ErrorKind::InvalidOperation, why);
    written.map_err(|why| failed(why.to_string()))?;
    String::from_utf8(text).map_err(|why| failed(why.to_string()))
}

/// The separators of Python's `json.dumps`.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

/// The template without `{% generation %}` tags, which mark the assistant's text for transformers; their trimming of spaces stays.
fn without_generation_tags(source: &str) -> String {
    let tag = regex::Regex::new(r"\{%([-+]?)\s*(?:end)?generation\s*([-+]?)%\}").expect("a pattern that is right");
    tag.replace_all(source, "{%$1 if true $2%}{% endif %}").into_owned()
}
