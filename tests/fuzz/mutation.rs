//! Changes to valid files: of bytes, and of the numbers, strings and values that JSON is made of.

use std::ops::Range;

use proptest::prelude::*;

/// One change; `at` and `with` are reduced to the valid range.
#[derive(Clone, Debug)]
pub struct Mutation {
    kind: Kind,
    at: usize,
    with: usize,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Flip,
    Set,
    Insert,
    Delete,
    Repeat,
    Truncate,
    /// Another number in a number's place.
    Number,
    /// Another string of the file, or a strange one, in a string's place.
    Text,
    /// Another JSON value in a number's or a string's place.
    Value,
    /// Many opening brackets.
    Nest,
}

const KINDS: [Kind; 10] = [
    Kind::Flip,
    Kind::Set,
    Kind::Insert,
    Kind::Delete,
    Kind::Repeat,
    Kind::Truncate,
    Kind::Number,
    Kind::Text,
    Kind::Value,
    Kind::Nest,
];

const NUMBERS: [&str; 18] = [
    "0",
    "1",
    "-1",
    "2",
    "3",
    "4",
    "7",
    "255",
    "256",
    "65536",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "1e308",
    "-0.0",
    "1e-45",
];

const TEXTS: [&str; 21] = [
    "",
    "a",
    "\\n",
    "\\u0000",
    "\\ud800",
    "\u{e9}",
    "F64",
    "I8",
    "BF16",
    "../x",
    "Sequence",
    "Regex",
    "(a*)*b",
    "(?=x)",
    "[",
    "x{1000}{1000}",
    "\\\\p{L}{200}",
    "\\\\p{L}+",
    "##",
    "\u{120}",
    "<|endoftext|>",
];

const VALUES: [&str; 10] = ["null", "true", "false", "[]", "{}", "\"\"", "[1,2,3]", "{\"a\":{}}", "NaN", "[[]]"];

pub fn mutation() -> impl Strategy<Value = Mutation> {
    let change = (prop::sample::select(KINDS.to_vec()), any::<usize>(), any::<usize>());
    change.prop_map(|(kind, at, with)| Mutation { kind, at, with })
}

/// One to five changes.
pub fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    prop::collection::vec(mutation(), 1..6)
}

pub fn mutated(good: &[u8], changes: &[Mutation]) -> Vec<u8> {
    let mut bytes = good.to_vec();
    changes.iter().for_each(|change| change.apply(&mut bytes));
    bytes
}

impl Mutation {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let at = self.at % (bytes.len() + 1);
        let to = bytes.len().min(at + 1 + self.with % 40);
        let pick = |list: &[&'static str]| list[self.with % list.len()];
        match self.kind {
            Kind::Flip => bytes[at..to].iter_mut().take(1).for_each(|byte| *byte ^= 1 << (self.with % 8)),
            Kind::Set => bytes[at..to].iter_mut().take(1).for_each(|byte| *byte = self.with as u8),
            Kind::Insert => bytes.insert(at, self.with as u8),
            Kind::Delete => drop(bytes.drain(at..to)),
            Kind::Repeat => {
                let again = bytes[at..to].to_vec();
                bytes.splice(to..to, again);
            }
            Kind::Truncate => bytes.truncate(at),
            Kind::Number => self.replace(bytes, numbers, pick(&NUMBERS).into()),
            Kind::Text if self.with.is_multiple_of(2) => {
                let others = texts(bytes);
                if !others.is_empty() {
                    let other = bytes[others[self.with / 2 % others.len()].clone()].to_vec();
                    self.replace(bytes, texts, other);
                }
            }
            Kind::Text => self.replace(bytes, texts, pick(&TEXTS).into()),
            Kind::Value => self.replace(bytes, values, pick(&VALUES).into()),
            Kind::Nest => {
                let open = if self.with.is_multiple_of(2) { "[" } else { "{\"a\":" };
                bytes.splice(at..at, open.repeat(self.with % 2000).into_bytes());
            }
        }
    }

    fn replace(&self, bytes: &mut Vec<u8>, places: fn(&[u8]) -> Vec<Range<usize>>, by: Vec<u8>) {
        let places = places(bytes);
        if !places.is_empty() {
            bytes.splice(places[self.at % places.len()].clone(), by);
        }
    }
}

/// Runs of digits outside strings.
fn numbers(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = vec![];
    let mut quoted = false;
    for (i, byte) in bytes.iter().enumerate() {
        quoted ^= *byte == b'"';
        match found.last_mut() {
            _ if quoted || !byte.is_ascii_digit() => {}
            Some(last) if last.end == i => last.end += 1,
            _ => found.push(i..i + 1),
        }
    }
    found
}

/// The text between quotes.
fn texts(bytes: &[u8]) -> Vec<Range<usize>> {
    let quotes: Vec<usize> = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'"').map(|(i, _)| i).collect();
    quotes.chunks_exact(2).map(|pair| pair[0] + 1..pair[1]).collect()
}

/// Numbers, and strings with their quotes.
fn values(bytes: &[u8]) -> Vec<Range<usize>> {
    let whole = texts(bytes).into_iter().map(|text| text.start - 1..text.end + 1);
    whole.chain(numbers(bytes)).collect()
}
