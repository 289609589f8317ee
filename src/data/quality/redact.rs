//! Personal information, replaced by stand-ins that mean nobody: e-mail addresses and public IPv4 addresses with datatrove's patterns and
//! stand-ins, telephone numbers, numbers of payment cards and of bank accounts, where their check digits are right.
//!
//! Several stand-ins take turns within a document, beginning with the first in each, so that a document's text does not depend on others.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::LazyLock;

use regex::{Captures, Regex};

use crate::error::Result;
use crate::fail;

/// A kind of personal information.
struct Kind {
    name: &'static str,
    pattern: LazyLock<Option<Regex>>,
    /// Whether a match of the pattern is of this kind, by its check digits or ranges.
    is_valid: fn(&str) -> bool,
    stand_ins: &'static [&'static str],
}

const OCTET: &str = "(?:25[0-5]|2[0-4][0-9]|[01]?[0-9][0-9]?)";

/// In the order in which they are replaced.
static KINDS: [Kind; 5] = [
    Kind {
        name: "emails",
        pattern: LazyLock::new(|| {
            let atom = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+";
            let label = "[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?";
            Regex::new(&format!(r"\b{atom}(?:\.{atom})*@(?:(?:{label}\.)+{label}|\[(?:{OCTET}\.){{3}}{OCTET}\])")).ok()
        }),
        is_valid: |_| true,
        stand_ins: &["email@example.com", "firstname.lastname@example.org"],
    },
    Kind {
        name: "ips",
        pattern: LazyLock::new(|| Regex::new(&format!(r"(?:{OCTET}\.){{3}}{OCTET}")).ok()),
        is_valid: is_public,
        stand_ins: &[
            "22.214.171.124",
            "126.96.36.199",
            "188.8.131.52",
            "184.108.40.206",
            "220.127.116.11",
            "18.104.22.168",
        ],
    },
    Kind {
        name: "ibans",
        pattern: LazyLock::new(|| Regex::new(r"\b[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b").ok()),
        is_valid: is_iban,
        stand_ins: &["XX00 0000 0000 0000 0000 00"],
    },
    Kind {
        name: "cards",
        pattern: LazyLock::new(|| Regex::new(r"\b[0-9](?:[ -]?[0-9]){12,18}\b").ok()),
        is_valid: is_card,
        stand_ins: &["0000 0000 0000 0000"],
    },
    Kind {
        name: "phones",
        pattern: LazyLock::new(|| {
            let international = r"\+[1-9][0-9]{0,2}(?:[ .-]?\(?[0-9]{1,5}\)?){2,6}\b";
            let american = r"(?:\b[2-9][0-9]{2}[ .-]|\([2-9][0-9]{2}\)[ .-]?)[2-9][0-9]{2}[ .-][0-9]{4}\b";
            Regex::new(&format!("{international}|{american}")).ok()
        }),
        is_valid: |text| (8..=15).contains(&digits(text).count()),
        // Numbers that are kept free for fiction.
        stand_ins: &["+1-202-555-0101", "+1-202-555-0102", "+1-202-555-0103"],
    },
];

/// The kinds that are replaced.
#[derive(Clone, Debug)]
pub struct Redact {
    kinds: Vec<&'static str>,
}

impl Redact {
    /// Of names with commas between them; `pii` is all of them.
    pub fn parse(list: &str) -> Result<Redact> {
        let all: Vec<&'static str> = KINDS.iter().map(|kind| kind.name).collect();
        let mut kinds = vec![];
        for name in list.split(',').map(str::trim) {
            match all.iter().find(|known| **known == name) {
                Some(known) => kinds.push(*known),
                None if name == "pii" => kinds.extend(&all),
                None => fail!(Usage, "--redact {name}: there is no such kind; there are pii, {}", all.join(", ")),
            }
        }
        Ok(Redact { kinds })
    }

    /// The text with stand-ins, and how many of each kind.
    pub fn replace(&self, text: String, counts: &mut BTreeMap<String, u64>) -> String {
        let mut text = text;
        for kind in KINDS.iter().filter(|kind| self.kinds.contains(&kind.name)) {
            let Some(pattern) = kind.pattern.as_ref() else { continue };
            let mut count = 0;
            let replaced = pattern.replace_all(&text, |found: &Captures| {
                if !(kind.is_valid)(&found[0]) {
                    return found[0].to_string();
                }
                count += 1;
                kind.stand_ins[(count - 1) % kind.stand_ins.len()].to_string()
            });
            if count > 0 {
                text = replaced.into_owned();
                *counts.entry(kind.name.to_string()).or_default() += count as u64;
            }
        }
        text
    }
}

/// Whether an address is one of the public net (IANA's registry of special addresses, as Python's `is_global` has it).
fn is_public(text: &str) -> bool {
    let Ok(address) = text.parse::<Ipv4Addr>() else { return false };
    let [a, b, c, d] = address.octets();
    let is_special = match (a, b, c) {
        (0 | 10 | 127, ..) => true,
        (100, 64..=127, _) => true,
        (169, 254, _) | (192, 168, _) | (198, 18 | 19, _) => true,
        (172, 16..=31, _) => true,
        (192, 0, 0) => !matches!(d, 9 | 10),
        (192, 0, 2) | (198, 51, 100) | (203, 0, 113) => true,
        (240.., ..) => true,
        _ => false,
    };
    !is_special
}

fn digits(text: &str) -> impl DoubleEndedIterator<Item = u32> {
    text.chars().filter_map(|c| c.to_digit(10))
}

/// Luhn's check digit (ISO/IEC 7812-1).
fn is_card(text: &str) -> bool {
    let weigh = |(place, digit): (usize, u32)| match place % 2 {
        1 if digit > 4 => 2 * digit - 9,
        1 => 2 * digit,
        _ => digit,
    };
    let is_one_digit = digits(text).all(|digit| Some(digit) == digits(text).next());
    !is_one_digit && digits(text).rev().enumerate().map(weigh).sum::<u32>().is_multiple_of(10)
}

/// Check digits modulo 97 (ISO 13616).
fn is_iban(text: &str) -> bool {
    let characters: Vec<char> = text.chars().filter(|c| *c != ' ').collect();
    let moved = characters.iter().skip(4).chain(&characters[..4]);
    let add = |rest: u32, c: &char| match c.to_digit(36) {
        Some(value) if value > 9 => (100 * rest + value) % 97,
        Some(value) => (10 * rest + value) % 97,
        None => rest,
    };
    (15..=34).contains(&characters.len()) && moved.fold(0, add) == 1
}
