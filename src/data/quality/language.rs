//! The language of a document, by the trigrams that `whatlang` knows of 70 languages.
//!
//! datatrove takes fastText's model of 176 languages, 126 MB, whose score is a probability. The score here is whatlang's confidence, which
//! is 1 where the best language is well ahead of the second, and is compared with the same threshold.

use whatlang::{Detector, Lang};

use super::document::Document;
use super::filter::{Filter, LineCounts, Parameters};
use crate::error::Result;
use crate::fail;

/// Text that is looked at from the beginning of a document: more changes no answer, and costs its time.
const MOST_BYTES: usize = 4096;

/// Codes of ISO 639-1 for those of ISO 639-3 that whatlang has.
const CODES: [(&str, &str); 70] = [
    ("eo", "epo"),
    ("en", "eng"),
    ("ru", "rus"),
    ("zh", "cmn"),
    ("es", "spa"),
    ("pt", "por"),
    ("it", "ita"),
    ("bn", "ben"),
    ("fr", "fra"),
    ("de", "deu"),
    ("uk", "ukr"),
    ("ka", "kat"),
    ("ar", "ara"),
    ("hi", "hin"),
    ("ja", "jpn"),
    ("he", "heb"),
    ("yi", "yid"),
    ("pl", "pol"),
    ("am", "amh"),
    ("jv", "jav"),
    ("ko", "kor"),
    ("nb", "nob"),
    ("da", "dan"),
    ("sv", "swe"),
    ("fi", "fin"),
    ("tr", "tur"),
    ("nl", "nld"),
    ("hu", "hun"),
    ("cs", "ces"),
    ("el", "ell"),
    ("bg", "bul"),
    ("be", "bel"),
    ("mr", "mar"),
    ("kn", "kan"),
    ("ro", "ron"),
    ("sl", "slv"),
    ("hr", "hrv"),
    ("sr", "srp"),
    ("mk", "mkd"),
    ("lt", "lit"),
    ("lv", "lav"),
    ("et", "est"),
    ("ta", "tam"),
    ("vi", "vie"),
    ("ur", "urd"),
    ("th", "tha"),
    ("gu", "guj"),
    ("uz", "uzb"),
    ("pa", "pan"),
    ("az", "aze"),
    ("id", "ind"),
    ("te", "tel"),
    ("fa", "pes"),
    ("ml", "mal"),
    ("or", "ori"),
    ("my", "mya"),
    ("ne", "nep"),
    ("si", "sin"),
    ("km", "khm"),
    ("tk", "tuk"),
    ("ak", "aka"),
    ("zu", "zul"),
    ("sn", "sna"),
    ("af", "afr"),
    ("la", "lat"),
    ("sk", "slk"),
    ("ca", "cat"),
    ("tl", "tgl"),
    ("hy", "hye"),
    ("cy", "cym"),
];

/// The reason for documents in other languages.
pub const REASON: &str = "language";

/// Languages to keep.
pub struct Language {
    kept: Vec<Lang>,
    threshold: f64,
}

impl Language {
    pub fn new(given: &mut Parameters) -> Result<Language> {
        let Some(value) = given.value() else {
            fail!(Usage, "--filter language needs one or more: language=en, or language=en+de");
        };
        let kept = value.split('+').map(named).collect::<Result<Vec<_>>>()?;
        Ok(Language { kept, threshold: given.number("threshold", 0.65)? })
    }
}

impl Filter for Language {
    fn check(&self, document: &mut Document, _: &mut LineCounts) -> Option<&'static str> {
        let stays = document
            .language()
            .is_some_and(|(language, score)| self.kept.contains(&language) && score > self.threshold);
        (!stays).then_some(REASON)
    }
}

fn named(name: &str) -> Result<Lang> {
    let code = CODES.iter().find(|(short, _)| *short == name).map_or(name, |(_, code)| code);
    match Lang::from_code(code) {
        Some(language) => Ok(language),
        None => fail!(
            Usage,
            "--filter language={name}: there is no such language; give codes of two letters, such as en+de"
        ),
    }
}

/// The language of a text and its score; none where there are no letters.
pub fn detect(text: &str) -> Option<(Lang, f64)> {
    let end = (0..=MOST_BYTES.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    let found = Detector::new().detect(&text[..end])?;
    Some((found.lang(), found.confidence()))
}

/// The code of a language, of two letters where there is one; `?` for none.
pub fn code(language: Option<Lang>) -> &'static str {
    let Some(language) = language else { return "?" };
    let code = language.code();
    CODES.iter().find(|(_, three)| *three == code).map_or(code, |(two, _)| two)
}
