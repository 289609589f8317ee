//! Words and sentences, by the rules that spaCy's tokenizer and sentencizer have for English, which datatrove takes for most languages
//! written with spaces.
//!
//! A text is cut at white space. Brackets, quotes, punctuation, currency signs and dingbats come off both ends of a part; what is left
//! is one word if it is an address on the net, and otherwise cut at hyphens, slashes and the like between letters. Contractions are two
//! words. Unicode's own segmentation (UAX 29) cuts differently at every one of these, so that thresholds on shares of words would mean
//! something else. Left out are spaCy's smileys, and contractions without an apostrophe but for frequent ones.

use std::sync::LazyLock;

use regex::Regex;

use super::characters::{is_icon, is_punctuation_category, is_space, is_terminal};

/// Byte ranges in a text.
pub type Span = (u32, u32);

/// Abbreviations that keep their full stop.
const ABBREVIATIONS: &str = " Adm. Ak. Ala. Apr. Ariz. Ark. Aug. Bros. Calif. Co. Colo. Conn. Corp. D.C. Dec. Del. Dr. E.G. E.g. Feb. Fla. \
     Ga. Gen. Gov. I.E. I.e. Ia. Id. Ill. Inc. Ind. Jan. Jr. Jul. Jun. Kan. Kans. Ky. La. Ltd. Mar. Mass. Md. Messrs. Mich. Minn. Miss. Mo. \
     Mont. Mr. Mrs. Ms. Mt. N.C. N.D. N.H. N.J. N.M. N.Y. Neb. Nebr. Nev. Nov. Oct. Okla. Ore. Pa. Ph.D. Prof. Rep. Rev. S.C. Sen. Sep. \
     Sept. St. Tenn. Va. Wash. Wis. a.m. co. e.g. i.e. p.m. v.s. vs. ";

/// Contractions without an apostrophe, and where they are cut.
const CONTRACTED: &str = " can-not Can-not can-t Can-t do-nt Do-nt does-nt did-nt is-nt was-nt wo-nt Wo-nt would-nt could-nt should-nt have-nt \
     has-nt had-nt are-nt were-nt I-m i-m I-ve i-ve i-d I-d gon-na Gon-na got-ta that-s That-s there-s what-s who-s how-s where-s he-s she-s \
     it-ll you-re they-re we-ve you-ve they-ve ";

/// Signs of units that come off a number.
const UNITS: &str = " km km² km³ m m² m³ dm dm² dm³ cm cm² cm³ mm mm² mm³ ha µm nm yd in ft kg g mg µg t lb oz m/s km/h kmh mph hPa Pa mbar mb MB \
     kb KB gb GB tb TB T G M K % ";
const LONGEST_UNIT_BYTES: usize = 5;

/// An address: a scheme, a user, a host with a top-level domain or four numbers, a port, a path.
static ADDRESS: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let host =
        r"(?:(?:[0-9]{1,3}\.){3}[0-9]{1,3}|(?:[A-Za-z0-9\u{A1}-\u{FFFF}][A-Za-z0-9\u{A1}-\u{FFFF}_-]*\.)+\p{Ll}{2,63})";
    Regex::new(&format!(r"\A(?:[\w+.-]{{2,}}://)?(?:\S+@)?{host}(?::[0-9]{{2,5}})?(?:[/?#]\S*)?\z")).ok()
});

/// The words of a text, punctuation included, in order.
pub fn words(text: &str) -> Vec<Span> {
    let mut words = Words { text, found: Vec::with_capacity(text.len() / 5), suffixes: vec![] };
    let mut start = None;
    for (at, c) in text.char_indices() {
        match (is_space(c), start) {
            (false, None) => start = Some(at),
            (true, Some(from)) => {
                words.part(from, at);
                start = None;
            }
            _ => {}
        }
    }
    if let Some(from) = start {
        words.part(from, text.len());
    }
    words.found
}

/// The sentences of a text: one more begins with the first word after the end of another that is not punctuation.
pub fn count_sentences(text: &str) -> usize {
    let (mut count, mut ended) = (1, false);
    for (from, to) in words(text) {
        let word = &text[from as usize..to as usize];
        let mut chars = word.chars();
        if chars.next().is_some_and(is_terminal) && chars.next().is_none() {
            ended = true;
        } else if ended && !word.chars().all(is_punctuation_category) {
            count += 1;
            ended = false;
        }
    }
    count
}

struct Words<'t> {
    text: &'t str,
    found: Vec<Span>,
    suffixes: Vec<Span>,
}

impl<'t> Words<'t> {
    fn of(&self, from: usize, to: usize) -> &'t str {
        &self.text[from..to]
    }

    fn push(&mut self, from: usize, to: usize) {
        if from < to {
            self.found.push((from as u32, to as u32));
        }
    }

    /// The words of a part without white space.
    fn part(&mut self, mut from: usize, mut to: usize) {
        if self.of(from, to).bytes().all(|b| b.is_ascii_alphabetic()) {
            let cut = contraction(self.of(from, to)).unwrap_or(0);
            self.push(from, from + cut);
            return self.push(from + cut, to);
        }
        debug_assert!(self.suffixes.is_empty());
        while from < to && !self.is_special(from, to) {
            let rest = self.of(from, to);
            let prefix = prefix(rest);
            if prefix > 0 && prefix < rest.len() && self.is_special(from + prefix, to) {
                self.push(from, from + prefix);
                from += prefix;
                break;
            }
            let suffix = suffix(rest, prefix);
            if suffix > 0 && suffix < rest.len() && self.is_special(from, to - suffix) {
                self.suffixes.push(((to - suffix) as u32, to as u32));
                to -= suffix;
                break;
            }
            if prefix == 0 && suffix == 0 {
                break;
            }
            self.push(from, from + prefix);
            from += prefix;
            if suffix > 0 && from + suffix <= to {
                self.suffixes.push(((to - suffix) as u32, to as u32));
                to -= suffix;
            }
        }
        self.middle(from, to);
        while let Some(suffix) = self.suffixes.pop() {
            self.found.push(suffix);
        }
    }

    fn is_special(&self, from: usize, to: usize) -> bool {
        let word = self.of(from, to);
        is_abbreviation(word) || contraction(word).is_some() || word == "and/or"
    }

    /// What is left between prefixes and suffixes.
    fn middle(&mut self, from: usize, to: usize) {
        let word = self.of(from, to);
        if is_abbreviation(word) || word == "and/or" {
            return self.push(from, to);
        }
        if let Some(cut) = contraction(word) {
            self.push(from, from + cut);
            return self.push(from + cut, to);
        }
        if word.bytes().all(|b| b.is_ascii_alphanumeric()) || is_address(word) {
            return self.push(from, to);
        }
        let mut start = 0;
        let mut at = 0;
        while at < word.len() {
            let length = infix(word, at);
            if length == 0 {
                at += word[at..].chars().next().map_or(1, char::len_utf8);
                continue;
            }
            if at > 0 {
                self.push(from + start, from + at);
                self.push(from + at, from + at + length);
                start = at + length;
            }
            at += length;
        }
        self.push(from + start, to);
    }
}

fn is_abbreviation(word: &str) -> bool {
    let Some(stem) = word.strip_suffix('.') else { return false };
    let mut chars = stem.chars();
    let is_letter =
        chars.next().is_some_and(|c| c.is_ascii_lowercase() || matches!(c, 'ä' | 'ö' | 'ü')) && chars.next().is_none();
    is_letter || (word.len() < 8 && is_listed(ABBREVIATIONS, word))
}

fn is_listed(list: &str, word: &str) -> bool {
    list.match_indices(word).any(|(at, _)| list[..at].ends_with(' ') && list[at + word.len()..].starts_with(' '))
}

/// Where a contraction is cut: "do|n't", "it|'s".
fn contraction(word: &str) -> Option<usize> {
    if !(3..=12).contains(&word.len()) && !matches!(word, "im" | "Im" | "id" | "Id") {
        return None;
    }
    if word.bytes().all(|b| b.is_ascii_alphabetic()) {
        let is_cut = |listed: &str| {
            let (first, second) = listed.split_once('-')?;
            (word.strip_prefix(first)? == second).then_some(first.len())
        };
        return if word.len() <= 8 {
            CONTRACTED.split(' ').filter(|listed| listed.len() == word.len() + 1).find_map(is_cut)
        } else {
            None
        };
    }
    let ends = |end: &str| {
        let base = word.strip_suffix(end)?;
        (!base.is_empty() && base.bytes().all(|b| b.is_ascii_alphabetic())).then_some(base.len())
    };
    let at = word.find(['\'', '’'])?;
    let after = word[at..].trim_start_matches(['\'', '’']);
    match after {
        "t" => ends("n't").or_else(|| ends("n’t")).filter(|cut| *cut >= 2),
        "ll" | "ve" | "re" | "d" | "m" => {
            ends(&word[at..]).filter(|_| is_listed(BASES, &word[..at].to_ascii_lowercase()))
        }
        _ => None,
    }
}

/// Words that contractions begin with.
const BASES: &str = " i you he she it we they who what when where why how there that this these those could would should must might may not ";

/// Whether it is an address on the net, or of mail.
fn is_address(word: &str) -> bool {
    let has_dot = word.bytes().skip(1).any(|b| b == b'.');
    has_dot && word.len() > 3 && ADDRESS.as_ref().is_some_and(|pattern| pattern.is_match(word))
}

fn is_lower(c: char) -> bool {
    c.is_alphabetic() && !c.is_uppercase()
}

fn is_upper(c: char) -> bool {
    c.is_alphabetic() && !c.is_lowercase()
}

fn is_quote(c: char) -> bool {
    matches!(
        c,
        '\'' | '"'
            | '”'
            | '“'
            | '`'
            | '‘'
            | '´'
            | '’'
            | '‚'
            | ','
            | '„'
            | '»'
            | '«'
            | '（'
            | '）'
            | '〔'
            | '〕'
            | '⟦'
            | '⟧'
    ) || ('\u{3008}'..='\u{3011}').contains(&c)
}

fn is_mark(c: char) -> bool {
    matches!(
        c,
        '…' | ','
            | ':'
            | ';'
            | '!'
            | '?'
            | '¿'
            | '؟'
            | '¡'
            | '('
            | ')'
            | '['
            | ']'
            | '{'
            | '}'
            | '<'
            | '>'
            | '_'
            | '#'
            | '*'
            | '&'
            | '。'
            | '？'
            | '！'
            | '，'
            | '、'
            | '；'
            | '：'
            | '～'
            | '·'
            | '।'
            | '،'
            | '۔'
            | '؛'
            | '٪'
    )
}

fn is_currency(c: char) -> bool {
    matches!(c, '$' | '£' | '€' | '¥' | '฿' | '﷼' | '\u{20A0}'..='\u{20BF}')
}

fn is_hyphen(c: char) -> bool {
    matches!(c, '-' | '–' | '—' | '~')
}

/// Bytes that come off the beginning.
fn prefix(word: &str) -> usize {
    let mut chars = word.chars();
    let Some(first) = chars.next() else { return 0 };
    match first {
        _ if first.is_ascii_alphanumeric() => {
            let sign = ["US$", "C$", "A$"].into_iter().find(|sign| word.starts_with(sign));
            sign.map_or(0, str::len)
        }
        '+' => usize::from(!chars.next().is_some_and(|c| c.is_ascii_digit())),
        '.' => {
            let dots = word.len() - word.trim_start_matches('.').len();
            if dots > 1 { dots } else { 0 }
        }
        '§' | '%' | '=' | '—' | '–' => first.len_utf8(),
        _ if is_mark(first) || is_quote(first) || is_currency(first) || is_icon(first) => first.len_utf8(),
        _ => 0,
    }
}

/// Bytes that come off the end, behind `prefix` bytes.
fn suffix(word: &str, prefix: usize) -> usize {
    let rest = &word[prefix..];
    let mut back = rest.chars().rev();
    let Some(last) = back.next() else { return 0 };
    let before = back.next();
    match last {
        's' | 'S' if matches!(before, Some('\'' | '’')) => 1 + before.map_or(0, char::len_utf8),
        '.' => {
            let dots = rest.len() - rest.trim_end_matches('.').len();
            if dots > 1 {
                return dots;
            }
            let takes = |c: char| {
                c.is_ascii_digit()
                    || is_lower(c)
                    || matches!(c, '%' | '²' | '-' | '+' | '|' | '\\')
                    || is_mark(c)
                    || is_quote(c)
            };
            let capitals = before.is_some_and(is_upper) && back.next().is_some_and(is_upper);
            usize::from(before.is_some_and(takes) || capitals)
        }
        '+' => usize::from(before.is_some_and(|c| c.is_ascii_digit())),
        '—' | '–' => last.len_utf8(),
        _ if is_mark(last) || is_quote(last) || is_icon(last) => last.len_utf8(),
        _ if is_currency(last) && before.is_some_and(|c| c.is_ascii_digit()) => last.len_utf8(),
        _ if last.is_alphabetic() || matches!(last, '%' | '²' | '³') => unit(rest),
        _ => 0,
    }
}

/// The bytes of a unit behind a number.
fn unit(word: &str) -> usize {
    // Only the end is searched: words may be as long as a document.
    let Some(length) = word.bytes().rev().take(LONGEST_UNIT_BYTES + 1).position(|byte| byte.is_ascii_digit()) else {
        return 0;
    };
    if is_listed(UNITS, &word[word.len() - length..]) { length } else { 0 }
}

/// Bytes of a separator at this place between the ends of a word.
fn infix(word: &str, at: usize) -> usize {
    let mut chars = word[at..].chars();
    let Some(c) = chars.next() else { return 0 };
    if c.is_ascii_alphanumeric() {
        return 0;
    }
    let next = chars.next();
    let before = word[..at].chars().next_back();
    let is_letter = |c: Option<char>| c.is_some_and(char::is_alphabetic);
    let is_digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
    let all = |c: char| word[at..].len() - word[at..].trim_start_matches(c).len();
    match c {
        '.' if next == Some('.') => all('.'),
        '…' => c.len_utf8(),
        '.' => {
            let joins =
                before.is_some_and(|c| is_lower(c) || is_quote(c)) && next.is_some_and(|c| is_upper(c) || is_quote(c));
            usize::from(joins)
        }
        ',' => usize::from(is_letter(before) && is_letter(next)),
        ':' | '<' | '>' | '=' | '/' => usize::from((is_letter(before) || is_digit(before)) && is_letter(next)),
        '+' | '-' | '*' | '^' if is_digit(before) && (is_digit(next) || next == Some('-')) => 1,
        _ if is_hyphen(c) && (is_letter(before) || is_digit(before)) => {
            let run = all(c);
            let length = c.len_utf8();
            let is_run = match c {
                '-' => run <= 3,
                '—' => run <= 2 * length,
                _ => run == length,
            };
            if is_run && is_letter(word[at + run..].chars().next()) { run } else { 0 }
        }
        _ if is_icon(c) => c.len_utf8(),
        _ => 0,
    }
}
