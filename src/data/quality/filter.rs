//! What filters have in common: a verdict on a document, and thresholds by name.

use std::collections::BTreeMap;

use super::document::Document;
use super::{
    c4::C4, fineweb::FineWeb, gopher_quality::GopherQuality, gopher_repetition::GopherRepetition, language::Language,
};
use crate::error::Result;
use crate::fail;

/// Lines that filters take out of documents, by reason; those of documents that are dropped in the end are counted too.
pub type LineCounts = BTreeMap<&'static str, u64>;

/// A rule for documents.
pub trait Filter: Send + Sync {
    /// The reason to drop the document; it may change the text of one that stays.
    fn check(&self, document: &mut Document, lines: &mut LineCounts) -> Option<&'static str>;
}

/// The names of filters, in FineWeb's order.
pub const NAMES: [&str; 5] = ["language", "gopher-repetition", "gopher-quality", "c4", "fineweb"];

/// A filter of `NAME[=VALUE][:THRESHOLD=NUMBER]...`.
pub fn parse(text: &str) -> Result<Box<dyn Filter>> {
    let mut given = Parameters::parse("--filter", text)?;
    let filter: Box<dyn Filter> = match given.name() {
        "language" => Box::new(Language::new(&mut given)?),
        "gopher-repetition" => Box::new(GopherRepetition::new(&mut given)?),
        "gopher-quality" => Box::new(GopherQuality::new(&mut given)?),
        "c4" => Box::new(C4::new(&mut given)?),
        "fineweb" => Box::new(FineWeb::new(&mut given)?),
        name => fail!(Usage, "--filter {name}: there is no such filter; there are {}", NAMES.join(", ")),
    };
    given.end()?;
    Ok(filter)
}

/// A name with a value and thresholds: `c4:min-num-sentences=3`.
#[derive(Debug)]
pub struct Parameters {
    flag: &'static str,
    name: String,
    value: Option<String>,
    given: BTreeMap<String, String>,
    /// Names that were asked for.
    known: Vec<String>,
}

impl Parameters {
    pub fn parse(flag: &'static str, text: &str) -> Result<Parameters> {
        let mut parts = text.split(':');
        let first = parts.next().unwrap_or_default().trim();
        let (name, value) =
            first.split_once('=').map_or((first, None), |(name, value)| (name, Some(value.to_string())));
        let mut given = BTreeMap::new();
        for part in parts {
            let Some((key, value)) = part.split_once('=') else {
                fail!(Usage, "{flag} {text}: {part} has no value; write {name}:THRESHOLD=NUMBER");
            };
            given.insert(key.trim().to_string(), value.trim().to_string());
        }
        Ok(Parameters { flag, name: name.to_string(), value, given, known: vec![] })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value behind the name.
    pub fn value(&mut self) -> Option<String> {
        self.value.take()
    }

    /// A threshold, or its default.
    pub fn number(&mut self, key: &str, default: f64) -> Result<f64> {
        self.known.push(key.to_string());
        let Some(text) = self.given.remove(key) else { return Ok(default) };
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(number),
            _ => fail!(Usage, "{} {}: {key}={text} is no number", self.flag, self.name),
        }
    }

    /// A whole number from `least`, or its default.
    pub fn count(&mut self, key: &str, default: usize, least: usize) -> Result<usize> {
        let number = self.number(key, default as f64)?;
        if number.fract() != 0.0 || number < least as f64 || number > 1e6 {
            fail!(Usage, "{} {}: {key}={number} is no whole number from {least} to 1000000", self.flag, self.name);
        }
        Ok(number as usize)
    }

    /// A choice, on or off.
    pub fn choice(&mut self, key: &str, default: bool) -> Result<bool> {
        self.known.push(key.to_string());
        match self.given.remove(key).as_deref() {
            None => Ok(default),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(text) => fail!(Usage, "{} {}: {key}={text} is neither true nor false", self.flag, self.name),
        }
    }

    /// Refuses what nobody asked for.
    pub fn end(self) -> Result<()> {
        if let Some(value) = &self.value {
            fail!(Usage, "{} {}={value}: {} takes no value", self.flag, self.name, self.name);
        }
        if let Some(key) = self.given.keys().next() {
            let has = if self.known.is_empty() { "none".to_string() } else { self.known.join(", ") };
            fail!(Usage, "{} {}: there is no threshold {key}; it has {has}", self.flag, self.name);
        }
        Ok(())
    }
}
