//! Classes of characters, and lines and white space as Python has them, on which datatrove's rules stand.

use std::sync::LazyLock;

use regex::Regex;

/// Ends of sentences in all scripts: Unicode's property Sentence_Terminal as of version 15 without presentation forms, and three signs of
/// Khmer (datatrove 0.10.1, `TERMINAL_PUNCTUATION`).
const TERMINAL: [(u32, u32); 82] = [
    (0x21, 0x21),
    (0x2E, 0x2E),
    (0x3F, 0x3F),
    (0x589, 0x589),
    (0x61D, 0x61F),
    (0x6D4, 0x6D4),
    (0x700, 0x702),
    (0x7F9, 0x7F9),
    (0x837, 0x837),
    (0x839, 0x839),
    (0x83D, 0x83E),
    (0x964, 0x965),
    (0x104A, 0x104B),
    (0x1362, 0x1362),
    (0x1367, 0x1368),
    (0x166E, 0x166E),
    (0x1735, 0x1736),
    (0x17D4, 0x17D6),
    (0x17D9, 0x17DA),
    (0x1803, 0x1803),
    (0x1809, 0x1809),
    (0x1944, 0x1945),
    (0x1AA8, 0x1AAB),
    (0x1B5A, 0x1B5B),
    (0x1B5E, 0x1B5F),
    (0x1B7D, 0x1B7E),
    (0x1C3B, 0x1C3C),
    (0x1C7E, 0x1C7F),
    (0x203C, 0x203D),
    (0x2047, 0x2049),
    (0x2E2E, 0x2E2E),
    (0x2E3C, 0x2E3C),
    (0x2E53, 0x2E54),
    (0x3002, 0x3002),
    (0xA4FF, 0xA4FF),
    (0xA60E, 0xA60F),
    (0xA6F3, 0xA6F3),
    (0xA6F7, 0xA6F7),
    (0xA876, 0xA877),
    (0xA8CE, 0xA8CF),
    (0xA92F, 0xA92F),
    (0xA9C8, 0xA9C9),
    (0xAA5D, 0xAA5F),
    (0xAAF0, 0xAAF1),
    (0xABEB, 0xABEB),
    (0xFE52, 0xFE52),
    (0xFE56, 0xFE57),
    (0xFF01, 0xFF01),
    (0xFF0E, 0xFF0E),
    (0xFF1F, 0xFF1F),
    (0xFF61, 0xFF61),
    (0x10A56, 0x10A57),
    (0x10F55, 0x10F59),
    (0x10F86, 0x10F89),
    (0x11047, 0x11048),
    (0x110BE, 0x110C1),
    (0x11141, 0x11143),
    (0x111C5, 0x111C6),
    (0x111CD, 0x111CD),
    (0x111DE, 0x111DF),
    (0x11238, 0x11239),
    (0x1123B, 0x1123C),
    (0x112A9, 0x112A9),
    (0x1144B, 0x1144C),
    (0x115C2, 0x115C3),
    (0x115C9, 0x115D7),
    (0x11641, 0x11642),
    (0x1173C, 0x1173E),
    (0x11944, 0x11944),
    (0x11946, 0x11946),
    (0x11A42, 0x11A43),
    (0x11A9B, 0x11A9C),
    (0x11C41, 0x11C42),
    (0x11EF7, 0x11EF8),
    (0x11F43, 0x11F44),
    (0x16A6E, 0x16A6F),
    (0x16AF5, 0x16AF5),
    (0x16B37, 0x16B38),
    (0x16B44, 0x16B44),
    (0x16E98, 0x16E98),
    (0x1BC9F, 0x1BC9F),
    (0x1DA88, 0x1DA88),
];

/// Punctuation and control characters beside them (datatrove's `PUNCTUATION`).
const PUNCTUATION: [(u32, u32); 28] = [
    (0x00, 0x08),
    (0x0B, 0x1F),
    (0x21, 0x2F),
    (0x3A, 0x40),
    (0x5B, 0x60),
    (0x7B, 0x9F),
    (0xAB, 0xAB),
    (0xB4, 0xB4),
    (0xBB, 0xBB),
    (0x2013, 0x2014),
    (0x2019, 0x2019),
    (0x201C, 0x201E),
    (0x2026, 0x2026),
    (0x2236, 0x2236),
    (0x2501, 0x2501),
    (0x25BA, 0x25BA),
    (0x3001, 0x3002),
    (0x3008, 0x300D),
    (0x3010, 0x3011),
    (0xFF01, 0xFF01),
    (0xFF05, 0xFF05),
    (0xFF08, 0xFF09),
    (0xFF0C, 0xFF0C),
    (0xFF0E, 0xFF0E),
    (0xFF11, 0xFF11),
    (0xFF1A, 0xFF1B),
    (0xFF1F, 0xFF1F),
    (0xFF5E, 0xFF5E),
];

static DIGIT: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\A\p{Nd}").ok());
static MARK: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\A\p{Mn}").ok());
static SYMBOL: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\A\p{So}").ok());
static PUNCTUATION_CATEGORY: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\A\p{P}").ok());

/// Whether it ends a sentence.
pub fn is_terminal(c: char) -> bool {
    if c.is_ascii() { matches!(c, '!' | '.' | '?') } else { is_in(&TERMINAL, c) }
}

/// Whether it is replaced by a space before texts are compared.
pub fn is_punctuation(c: char) -> bool {
    if c.is_ascii() { !c.is_ascii_alphanumeric() && !matches!(c, ' ' | '\t' | '\n') } else { is_in(&PUNCTUATION, c) }
}

/// Whether a word of such characters alone is a symbol and no word.
pub fn is_symbol(c: char) -> bool {
    is_punctuation(c) || is_terminal(c)
}

/// A digit of any script: Unicode's category Nd.
pub fn is_digit(c: char) -> bool {
    c.is_ascii_digit() || (!c.is_ascii() && c.is_numeric() && matches(&DIGIT, c))
}

/// A mark above or below a letter: Unicode's category Mn.
pub fn is_mark(c: char) -> bool {
    !c.is_ascii() && matches(&MARK, c)
}

/// A character of Unicode's category So, such as a dingbat.
pub fn is_icon(c: char) -> bool {
    !c.is_ascii() && !c.is_alphanumeric() && matches(&SYMBOL, c)
}

/// A character of Unicode's category P.
pub fn is_punctuation_category(c: char) -> bool {
    if c.is_ascii() {
        c.is_ascii_punctuation() && !matches!(c, '$' | '+' | '<' | '=' | '>' | '^' | '`' | '|' | '~')
    } else {
        !c.is_alphanumeric() && matches(&PUNCTUATION_CATEGORY, c)
    }
}

/// White space as Python's `str.isspace` has it: Unicode's, and four separators of ASCII.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\x1C'..='\x1F')
}

/// The lines of a text as Python's `str.splitlines` has them.
pub fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let ends =
            |c: char| matches!(c, '\n' | '\r' | '\x0B' | '\x0C' | '\x1C'..='\x1E' | '\u{85}' | '\u{2028}' | '\u{2029}');
        let Some(at) = rest.find(ends) else { return Some(std::mem::take(&mut rest)) };
        let (line, end) = rest.split_at(at);
        let after = end.strip_prefix("\r\n").unwrap_or_else(|| {
            let mut chars = end.chars();
            chars.next();
            chars.as_str()
        });
        rest = after;
        Some(line)
    })
}

/// Characters of a text, as Python counts its length.
pub fn length(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.chars().count() }
}

fn matches(pattern: &LazyLock<Option<Regex>>, c: char) -> bool {
    pattern.as_ref().is_some_and(|pattern| pattern.is_match(c.encode_utf8(&mut [0; 4])))
}

fn is_in(ranges: &[(u32, u32)], c: char) -> bool {
    let code = c as u32;
    let at = ranges.partition_point(|range| range.1 < code);
    ranges.get(at).is_some_and(|range| range.0 <= code)
}
