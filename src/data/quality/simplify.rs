//! The form in which texts are compared, as datatrove's `simplify_text` makes it: lower case, numbers as `0`, no punctuation, no marks on
//! letters, single spaces; and n-grams of its words.

use std::iter::Peekable;

use twox_hash::XxHash64;
use unicode_normalization::UnicodeNormalization;

use super::characters::{is_digit, is_mark, is_punctuation, is_space};
use super::words::words;

/// A text to compare.
pub fn simplify(text: &str) -> String {
    let mut simple = String::with_capacity(text.len());
    let mut push = |c: char| match is_punctuation(c) || is_space(c) {
        false => simple.push(c),
        true if !simple.ends_with(' ') => simple.push(' '),
        true => {}
    };
    let mut chars = text.chars().flat_map(char::to_lowercase).peekable();
    while let Some(c) = chars.next() {
        if !is_digit(c) {
            push(c);
            continue;
        }
        push('0');
        while chars.next_if(|c| is_digit(*c)).is_some() {}
        // A decimal separator belongs to the number if another digit follows; it becomes a space otherwise.
        if let Some(separator) = chars.next_if(|c| matches!(c, '.' | ',' | '،' | '٫' | '⎖' | '⎗' | '⎘'))
            && !fraction(&mut chars)
        {
            push(separator);
        }
    }
    let trimmed = simple.trim_matches(is_space);
    if trimmed.is_ascii() {
        return trimmed.to_string();
    }
    trimmed.nfd().filter(|c| !is_mark(*c)).collect::<String>().trim_matches(is_space).to_string()
}

/// Takes the digits that follow; whether there are any.
fn fraction(chars: &mut Peekable<impl Iterator<Item = char>>) -> bool {
    let mut any = false;
    while chars.next_if(|c| is_digit(*c)).is_some() {
        any = true;
    }
    any
}

/// Hashes of the n-grams of words of a text in its simple form, in order; none where it has fewer words.
pub fn n_grams(text: &str, n: usize) -> Vec<u64> {
    let simple = simplify(text);
    let spans = words(&simple);
    let mut joined = String::with_capacity(simple.len() + 16);
    let mut ends = Vec::with_capacity(spans.len());
    for (from, to) in spans {
        joined += &simple[from as usize..to as usize];
        ends.push(joined.len());
        joined.push(' ');
    }
    let start = |word: usize| if word == 0 { 0 } else { ends[word - 1] + 1 };
    let of = |from: usize| XxHash64::oneshot(0, &joined.as_bytes()[start(from)..ends[from + n - 1]]);
    (0..(ends.len() + 1).saturating_sub(n)).map(of).collect()
}
