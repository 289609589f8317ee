//! Where a text may be cut so that the ids of its parts, one after another, are those of the whole.
//!
//! A tokenizer normalises a text, splits it at added tokens, pre-tokenises the parts between, and runs its model on each
//! pre-token. A cut is right where a pre-token starts whatever stands farther away. Such places are told from the steps
//! that a `tokenizer.json` names: before a single space between words, or after a single line break, away from added
//! tokens. Without a pre-tokenizer, BPE merges never cross the space if no token of the vocabulary does. A step that is not
//! known here makes a document indivisible: it is encoded as a whole, and refused if it is longer than [`MOST_BYTES`].
//!
//! The text after a cut is encoded behind the characters before it ([`Cuts::context`]), whose ids are then left out, because
//! some steps treat the beginning of a text in their own way (`Prepend`, `Strip`, `add_prefix_space`).

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use super::tokenizer::Tokenizer;

/// A stretch of a document without a place for a cut; the tokenizers crate takes hundreds of times its size in memory.
pub const MOST_BYTES: usize = 16 << 20;

/// The places where a text may be cut.
#[derive(Debug)]
pub struct Cuts(Kind);

#[derive(Debug)]
enum Kind {
    /// Anywhere; between words where that is possible.
    Anywhere,
    Between(Places),
    /// Nowhere, and why.
    Nowhere(String),
}

/// The cuts that a step of a tokenizer allows.
#[derive(Debug)]
struct Places {
    /// Only an ASCII character may stand before the space: other ones may be joined, or removed.
    ascii: bool,
    /// Also after a single line break.
    newlines: bool,
    /// The character that replaces spaces: in a text it counts as one.
    space: String,
    /// Tokens that are found before a text is split, and how many bytes around a cut must be free of them.
    added: Option<(Regex, usize)>,
}

impl Cuts {
    /// For tokenizers whose tokens are single characters or bytes, and for counting words.
    pub fn anywhere() -> Cuts {
        Cuts(Kind::Anywhere)
    }

    /// Those of a tokenizer.
    pub fn of(tokenizer: &Tokenizer) -> Cuts {
        let Some(inner) = tokenizer.inner() else { return Cuts::anywhere() };
        let json: Value = serde_json::from_slice(tokenizer.json()).unwrap_or_default();
        let places = places(&json).and_then(|places| Ok(Places { added: added(inner)?, ..places }));
        Cuts(places.map_or_else(Kind::Nowhere, Kind::Between))
    }

    /// The last place within the text at which it, whatever text follows, may be cut.
    pub(super) fn last(&self, text: &str) -> Option<usize> {
        match &self.0 {
            Kind::Anywhere => Some(between_words(text)),
            Kind::Nowhere(_) => None,
            Kind::Between(places) => places.last(text),
        }
    }

    /// Whether parts are as short as is asked for, wherever words end.
    pub(super) fn is_anywhere(&self) -> bool {
        matches!(self.0, Kind::Anywhere)
    }

    /// Why there are no places at all, for a message.
    pub(super) fn reason(&self) -> &str {
        match &self.0 {
            Kind::Nowhere(why) => why,
            _ => "there is no single space or line break between words",
        }
    }

    /// The characters before a cut that are put before the text after it.
    pub(super) fn context<'t>(&self, before: &'t str) -> &'t str {
        if self.is_anywhere() {
            return "";
        }
        let characters = if before.ends_with('\n') { 2 } else { 1 };
        before.char_indices().rev().nth(characters - 1).map_or(before, |(at, _)| &before[at..])
    }
}

/// Whether normalizers may leave a character out, so that two spaces come together: marks, control and format characters.
fn is_removable(c: char) -> bool {
    static REMOVABLE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"[\p{M}\p{C}]").expect("a class of characters"));
    !c.is_ascii_graphic() && c != ' ' && REMOVABLE.is_match(c.encode_utf8(&mut [0; 4]))
}

impl Places {
    fn last(&self, text: &str) -> Option<usize> {
        let places = text.rmatch_indices([' ', '\n']);
        let cut = |(at, found): (usize, &str)| {
            let before = text[..at].chars().next_back()?;
            let after = text[at + 1..].chars().next()?;
            let visible = |c: char| !c.is_whitespace() && !is_removable(c) && !self.space.contains(c);
            let is_joined = after.is_whitespace() || is_removable(after);
            if is_joined || !(before.is_ascii_graphic() || (!self.ascii && visible(before))) {
                return None;
            }
            let at = if found == " " { at } else { at + 1 };
            (found == " " || self.newlines).then_some(at).filter(|&at| self.is_far_from_added(text, at))
        };
        places.filter_map(cut).next()
    }

    fn is_far_from_added(&self, text: &str, at: usize) -> bool {
        let Some((added, margin)) = &self.added else { return true };
        // The text behind the end is not known yet.
        if at + 1 + margin > text.len() {
            return false;
        }
        let start = (0..=at.saturating_sub(*margin)).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
        let end = (at + 1 + margin..=text.len()).find(|&i| text.is_char_boundary(i)).unwrap_or(text.len());
        !added.is_match(&text[start..end])
    }
}

/// A regular expression for all added tokens, as they are and as they are normalised, and the bytes that one may take.
fn added(inner: &tokenizers::Tokenizer) -> Result<Option<(Regex, usize)>, String> {
    use tokenizers::{NormalizedString, Normalizer};
    let mut spellings = vec![];
    for token in inner.get_added_tokens_decoder().into_values() {
        if let Some(normalizer) = inner.get_normalizer().filter(|_| token.normalized) {
            let mut normalized = NormalizedString::from(token.content.as_str());
            if normalizer.normalize(&mut normalized).is_ok() {
                // Whatever the case of the text, and without its prefix.
                spellings.push(normalized.get().trim_start_matches('\u{2581}').to_string());
            }
        }
        spellings.push(token.content);
    }
    spellings.retain(|spelling| !spelling.is_empty());
    let Some(longest) = spellings.iter().map(String::len).max() else { return Ok(None) };
    let all = spellings.iter().map(|spelling| regex::escape(spelling)).collect::<Vec<_>>().join("|");
    let flag = if inner.get_normalizer().is_some() { "i" } else { "" };
    let regex = Regex::new(&format!("(?{flag}:{all})")).map_err(|_| "it has too many added tokens".to_string())?;
    // A character may have four times the bytes of its normal form.
    let margin = if inner.get_normalizer().is_some() { 4 * longest + 16 } else { longest };
    Ok(Some((regex, margin)))
}

/// The steps of a tokenizer so far.
struct Steps {
    ascii: bool,
    newlines: bool,
    /// A normalizer leaves characters out, so that two line breaks may come together.
    removes: bool,
    /// The replacement of a space.
    space: String,
}

fn places(json: &Value) -> Result<Places, String> {
    let mut steps = Steps { ascii: false, newlines: true, removes: false, space: " ".into() };
    for step in flat(&json["normalizer"], "normalizers") {
        steps.normalise(step)?;
    }
    for step in flat(&json["pre_tokenizer"], "pretokenizers") {
        if steps.splits(step)? {
            let Steps { ascii, newlines, space, .. } = steps;
            return Ok(Places { ascii, newlines, space, added: None });
        }
    }
    steps.is_kept_by(&json["model"])?;
    Ok(Places { ascii: steps.ascii, newlines: false, space: steps.space, added: None })
}

/// The steps of a sequence, and of sequences in it.
fn flat<'a>(step: &'a Value, list: &str) -> Vec<&'a Value> {
    match step[list].as_array() {
        Some(steps) => steps.iter().flat_map(|step| flat(step, list)).collect(),
        None if step.is_null() => vec![],
        None => vec![step],
    }
}

fn unknown(part: &str, step: &Value) -> String {
    let shown = step["type"].as_str().unwrap_or("without a name");
    let pattern = match step.get("pattern") {
        Some(pattern) => format!(" of {pattern}"),
        None => String::new(),
    };
    crate::files::one_line(&format!("its {part} {shown}{pattern} may join the texts on both sides of a cut"))
}

impl Steps {
    /// Takes a normalizer, if it works the same on both sides of a cut.
    fn normalise(&mut self, step: &Value) -> Result<(), String> {
        match step["type"].as_str().unwrap_or_default() {
            "Lowercase" | "NFC" | "NFD" | "NFKC" | "NFKD" | "Prepend" => {}
            "BertNormalizer" | "Bert" | "StripAccents" => self.removes = true,
            "Nmt" => (self.ascii, self.newlines) = (true, false),
            // It strips both ends of a text, but neither visible characters nor combining marks after them.
            "Strip" | "StripNormalizer" => (self.ascii, self.newlines) = (true, false),
            // It goes by graphemes, and ASCII characters stand for themselves.
            "Precompiled" => (self.ascii, self.newlines) = (true, false),
            "Replace" => self.replace(step)?,
            _ => return Err(unknown("normalizer", step)),
        }
        Ok(())
    }

    fn replace(&mut self, step: &Value) -> Result<(), String> {
        let content = step["content"].as_str().unwrap_or_default();
        match (step["pattern"]["String"].as_str(), step["pattern"]["Regex"].as_str()) {
            (Some(pattern), _) if pattern == self.space && content.chars().count() == 1 => {
                self.space = content.to_string();
            }
            (Some(pattern), _) if !pattern.contains([' ', '\n', '\u{2581}']) => {
                // Its output must not look like the end of a word.
                let plain = !content.is_empty() && !content.contains([' ', '\n', '\u{2581}']);
                if !plain {
                    return Err(unknown("normalizer", step));
                }
            }
            // A single space is left alone, or stays one.
            (_, Some(" {2,}")) => {}
            (_, Some(r"\s+")) if content == " " && self.space == " " => self.newlines = false,
            _ => return Err(unknown("normalizer", step)),
        }
        Ok(())
    }

    /// Whether a pre-tokenizer always begins a pre-token at the cut; one that may join the texts on both sides is refused.
    fn splits(&mut self, step: &Value) -> Result<bool, String> {
        let spaced = self.space == " ";
        match step["type"].as_str().unwrap_or_default() {
            "ByteLevel" => {
                let splits = spaced && step["use_regex"] != false;
                self.newlines &= !self.removes;
                self.space = if spaced { "\u{120}".into() } else { std::mem::take(&mut self.space) };
                Ok(splits)
            }
            "Metaspace" => {
                let replacement = step["replacement"].as_str().unwrap_or("\u{2581}");
                self.newlines = false;
                self.space = if spaced { replacement.to_string() } else { std::mem::take(&mut self.space) };
                Ok(step["split"] != false && self.space == replacement)
            }
            "Whitespace" | "WhitespaceSplit" | "BertPreTokenizer" if spaced => Ok(true),
            "Whitespace" | "WhitespaceSplit" | "BertPreTokenizer" => Err(unknown("pre-tokenizer", step)),
            "Digits" | "CharDelimiterSplit" => Ok(false),
            "Punctuation" if is_apart(step) => Ok(false),
            "Split" => {
                self.newlines &= !self.removes;
                self.split(step)
            }
            _ => Err(unknown("pre-tokenizer", step)),
        }
    }

    fn split(&self, step: &Value) -> Result<bool, String> {
        let spaced = self.space == " ";
        let apart = is_apart(step) && step["behavior"] != "Contiguous";
        match (step["pattern"]["String"].as_str(), step["pattern"]["Regex"].as_str()) {
            (Some(" "), _) if !spaced => Ok(false), // there are none left
            (Some(" "), _) if apart || step["behavior"] == "MergedWithNext" => Ok(true),
            (Some(pattern), _) if apart && !pattern.contains([' ', '\n', '\u{2581}']) => Ok(false),
            (_, Some(pattern)) if apart && spaced && WORDS.contains(&pattern) => Ok(true),
            (_, Some(pattern)) if apart && WITHIN_WORDS.contains(&pattern) && step["invert"] != true => Ok(false),
            _ => Err(unknown("pre-tokenizer", step)),
        }
    }

    /// Whether no token of a model without pre-tokens reaches across a space.
    fn is_kept_by(&self, model: &Value) -> Result<(), String> {
        let is_unset = |key: &str| model[key].is_null() || model[key] == "" || model[key] == false;
        let plain = ["continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"].into_iter().all(is_unset);
        let kind = model["type"].as_str().unwrap_or("BPE");
        let Some(vocabulary) = model["vocab"].as_object().filter(|_| kind == "BPE" && plain) else {
            return Err(format!("its {kind} model runs over whole texts"));
        };
        let crosses = |token: &str| {
            let spaces = token.match_indices(&self.space).map(|(at, _)| at);
            spaces.filter(|&at| at > 0).any(|at| !token[..at].ends_with(&self.space))
        };
        match vocabulary.keys().find(|token| crosses(token)) {
            Some(token) => Err(format!("its token {:?} reaches across a space", crate::files::one_line(token))),
            None if !vocabulary.contains_key(&self.space) => Err("it has no token for a space".into()),
            None => Ok(()),
        }
    }
}

/// Whether a pre-tokenizer never joins a match with the text beside it.
fn is_apart(step: &Value) -> bool {
    matches!(step["behavior"].as_str(), None | Some("Isolated" | "Removed" | "Contiguous"))
}

/// Regular expressions that no pre-token of which goes on over a space behind a visible character, nor over a line break
/// that something else follows: those of GPT-2, LLaMA 3, Qwen 2, GPT-4 (two spellings), GPT-4o (two), Qwen 3.5, DeepSeek 3.
/// Every space is in some pre-token.
const WORDS: [&str; 9] = [
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
];

/// Regular expressions of pre-tokenizers whose matches lie within words.
const WITHIN_WORDS: [&str; 5] = [r"\p{N}", r"\p{N}{1,3}", r"\d", r"[0-9]", "[一-龥぀-ゟ゠-ヿ]+"];

/// Where to end a part where words end, if there is a place: before a space that follows a word, or else after a single
/// line break between letters or digits, or else at the end.
fn between_words(text: &str) -> usize {
    let before = |at: usize| text[..at].chars().next_back().unwrap_or(' ');
    let after = |at: usize| text[at + 1..].chars().next().unwrap_or(' ');
    let space = text.rmatch_indices(' ').map(|(at, _)| at).find(|&at| !before(at).is_whitespace());
    let newline = || {
        let mut newlines = text.rmatch_indices('\n').map(|(at, _)| at);
        newlines.find(|&at| before(at).is_alphanumeric() && after(at).is_alphanumeric())
    };
    space.or_else(|| newline().map(|at| at + 1)).unwrap_or(text.len())
}
