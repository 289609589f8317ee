//! How close texts come to the texts that were wanted: exact match, ROUGE-L, BLEU and chrF.
//!
//! - ROUGE-L (Lin 2004) as the package rouge-score has it without stemming: F1 of the longest common subsequence of words, letters and
//!   digits in lower case; the mean over texts.
//! - BLEU (Papineni et al. 2002) as sacrebleu's corpus BLEU: its 13a tokenizer, n-grams up to 4, exponential smoothing of zeros.
//! - chrF (Popović 2015) as sacrebleu's chrF2: n-grams of up to six characters without white space, beta 2.
//!
//! All are percentages.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::LazyLock;

use regex::Regex;

/// Lengths of n-grams: of words in BLEU, of characters in chrF.
const WORDS: usize = 4;
const CHARACTERS: usize = 6;
/// How much more recall counts than precision in chrF, squared.
const BETA_SQUARED: f64 = 4.0;

/// The figures of some texts, in percent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TextScores {
    /// Texts that are the wanted ones, but for white space around them.
    pub exact: f64,
    pub rouge_l: f64,
    pub bleu: f64,
    pub chrf: f64,
    pub total: usize,
}

impl fmt::Display for TextScores {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let TextScores { exact, rouge_l, bleu, chrf, total } = self;
        write!(f, "exact match {exact:.2}%, ROUGE-L {rouge_l:.2}, BLEU {bleu:.2}, chrF {chrf:.2} of {total} texts")
    }
}

impl TextScores {
    /// The figures of pairs of a text and the one that was wanted; nothing where there are none.
    pub fn of(pairs: &[(&str, &str)]) -> Option<TextScores> {
        if pairs.is_empty() {
            return None;
        }
        let mean = |values: &dyn Fn(&str, &str) -> f64| {
            100.0 * pairs.iter().map(|(got, want)| values(got, want)).sum::<f64>() / pairs.len() as f64
        };
        Some(TextScores {
            exact: mean(&|got, want| f64::from(u8::from(got.trim() == want.trim()))),
            rouge_l: mean(&rouge_l),
            bleu: bleu(pairs),
            chrf: chrf(pairs),
            total: pairs.len(),
        })
    }
}

/// F1 of the longest common subsequence of words.
fn rouge_l(got: &str, want: &str) -> f64 {
    let words = |text: &str| -> Vec<String> {
        let lower = text.to_lowercase();
        lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_string).collect()
    };
    let (got, want) = (words(got), words(want));
    let common = longest_common(&got, &want);
    if common == 0 {
        return 0.0;
    }
    let (precision, recall) = (common as f64 / got.len() as f64, common as f64 / want.len() as f64);
    2.0 * precision * recall / (precision + recall)
}

/// Length of the longest common subsequence.
fn longest_common(a: &[String], b: &[String]) -> usize {
    let mut row = vec![0; b.len() + 1];
    for x in a {
        let mut diagonal = 0;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if x == y { diagonal + 1 } else { above.max(row[j]) };
            diagonal = above;
        }
    }
    row[b.len()]
}

/// Counts of n-grams, and how many there are.
fn ngrams<T: Hash + Eq>(items: &[T], n: usize) -> (HashMap<&[T], usize>, usize) {
    let mut counts = HashMap::new();
    items.windows(n).for_each(|gram| *counts.entry(gram).or_default() += 1);
    (counts, items.len().saturating_sub(n - 1))
}

/// Of the n-grams of a text and of the wanted one, those that both have.
fn matches<T: Hash + Eq>(got: &HashMap<&[T], usize>, want: &HashMap<&[T], usize>) -> usize {
    got.iter().map(|(gram, count)| (*count).min(want.get(gram).copied().unwrap_or(0))).sum()
}

/// Corpus BLEU.
fn bleu(pairs: &[(&str, &str)]) -> f64 {
    let (mut correct, mut total, mut lengths) = ([0usize; WORDS], [0usize; WORDS], (0, 0));
    for (got, want) in pairs {
        let (got, want) = (words_13a(got), words_13a(want));
        lengths = (lengths.0 + got.len(), lengths.1 + want.len());
        for n in 1..=WORDS {
            let ((got, count), (want, _)) = (ngrams(&got, n), ngrams(&want, n));
            correct[n - 1] += matches(&got, &want);
            total[n - 1] += count;
        }
    }
    if correct == [0; WORDS] || total.contains(&0) {
        return 0.0;
    }
    let mut smoothing = 1.0;
    let log_precision = |(correct, total): (&usize, &usize)| {
        let precision = if *correct == 0 {
            smoothing *= 2.0;
            1.0 / (smoothing * *total as f64)
        } else {
            *correct as f64 / *total as f64
        };
        precision.ln()
    };
    let mean = correct.iter().zip(&total).map(log_precision).sum::<f64>() / WORDS as f64;
    let (got, want) = (lengths.0 as f64, lengths.1 as f64);
    let brevity = if got < want { (1.0 - want / got).exp() } else { 1.0 };
    100.0 * brevity * mean.exp()
}

/// The words of mteval-v13a, as sacrebleu has them.
fn words_13a(text: &str) -> Vec<String> {
    static RULES: LazyLock<[(Regex, &str); 4]> = LazyLock::new(|| {
        let rule = |pattern: &str, with: &'static str| (Regex::new(pattern).expect("a fixed pattern"), with);
        [
            rule(r"([{-~\[-` -&(-+:-@/])", " $1 "), // ASCII punctuation but for ' , - and .
            rule("([^0-9])([.,])", "$1 $2 "),
            rule("([.,])([^0-9])", " $1 $2"),
            rule("([0-9])(-)", "$1 $2 "),
        ]
    });
    let mut line = text.trim_end().replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    if line.contains('&') {
        for (entity, character) in [("&quot;", "\""), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")] {
            line = line.replace(entity, character);
        }
    }
    let mut line = format!(" {line} ");
    for (pattern, with) in RULES.iter() {
        line = pattern.replace_all(&line, *with).into_owned();
    }
    line.split_whitespace().map(str::to_string).collect()
}

/// Corpus chrF.
fn chrf(pairs: &[(&str, &str)]) -> f64 {
    // Of each length: n-grams of the texts, of the wanted ones, and those that both have.
    let mut statistics = [[0usize; 3]; CHARACTERS];
    for (got, want) in pairs {
        let characters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<Vec<char>>();
        let (got, want) = (characters(got), characters(want));
        for (n, sums) in (1..).zip(&mut statistics) {
            let ((got, in_got), (want, in_want)) = (ngrams(&got, n), ngrams(&want, n));
            // Texts too short for a length of the wanted one do not count for it.
            let counted = if in_want > 0 { in_got } else { 0 };
            [counted, in_want, matches(&got, &want)].iter().zip(sums).for_each(|(value, sum)| *sum += value);
        }
    }
    let (mut precision, mut recall, mut lengths) = (0.0, 0.0, 0.0);
    for [got, want, both] in statistics.iter().filter(|[got, want, _]| *got > 0 && *want > 0) {
        precision += *both as f64 / *got as f64;
        recall += *both as f64 / *want as f64;
        lengths += 1.0;
    }
    if precision + recall == 0.0 {
        return 0.0;
    }
    (precision, recall) = (precision / lengths, recall / lengths);
    100.0 * (1.0 + BETA_SQUARED) * precision * recall / (BETA_SQUARED * precision + recall)
}
