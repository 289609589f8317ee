//! Exact match and F1 of answers as the evaluation script of SQuAD 2.0 has them, in percent, which are those of SQuAD 1.1 where every
//! question has an answer.

use std::collections::HashMap;

use serde::Serialize;

/// A question with the answer that was given.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged<'a> {
    /// The right answers; none where the context has none.
    pub golds: Vec<&'a str>,
    /// Empty for no answer.
    pub answer: &'a str,
    /// How likely it is that there is no answer, on any scale.
    pub no_answer: f64,
}

/// Means over questions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Part {
    pub exact: f64,
    pub f1: f64,
    pub total: usize,
}

/// The best mean that any threshold for no answer gives.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Best {
    pub value: f64,
    pub threshold: f64,
}

/// The figures of a set of questions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SquadScores {
    #[serde(flatten)]
    pub all: Part,
    /// Of the questions with an answer, where there are some.
    pub has_answer: Option<Part>,
    /// Of those without.
    pub no_answer: Option<Part>,
    pub best_exact: Best,
    pub best_f1: Best,
}

/// A text without case, ASCII punctuation, articles and superfluous white space.
pub fn normalise(text: &str) -> String {
    let plain: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    // Articles are whole words, whatever is beside them.
    let is_word = |c: char| c.is_alphanumeric();
    let mut kept = String::new();
    for run in split_runs(&plain, is_word) {
        kept.push_str(if ["a", "an", "the"].contains(&run) { " " } else { run });
    }
    let is_space = |c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c);
    kept.split(is_space).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// The longest stretches of characters that are all of a kind, or all not.
fn split_runs(text: &str, is_kind: impl Fn(char) -> bool) -> Vec<&str> {
    let mut runs = vec![];
    let mut start = 0;
    let mut before = None;
    for (at, c) in text.char_indices() {
        let kind = is_kind(c);
        if before.is_some_and(|before| before != kind) {
            runs.push(&text[start..at]);
            start = at;
        }
        before = Some(kind);
    }
    runs.push(&text[start..]);
    runs
}

/// Whether an answer is the right one but for what [`normalise`] leaves out.
pub fn exact(gold: &str, answer: &str) -> bool {
    normalise(gold) == normalise(answer)
}

/// F1 of an answer's words, each as often as it occurs; of texts without words, whether both have none.
pub fn f1(gold: &str, answer: &str) -> f64 {
    let (gold, answer) = (normalise(gold), normalise(answer));
    let words = |text: &str| text.split(' ').filter(|word| !word.is_empty()).count() as f64;
    let (all_gold, all_answer) = (words(&gold), words(&answer));
    if all_gold == 0.0 || all_answer == 0.0 {
        return f64::from(u8::from(all_gold == all_answer));
    }
    let mut left: HashMap<&str, usize> = HashMap::new();
    gold.split(' ').for_each(|word| *left.entry(word).or_default() += 1);
    let mut take = |word: &str| left.get_mut(word).filter(|count| **count > 0).map(|count| *count -= 1).is_some();
    let same = answer.split(' ').filter(|word| take(word)).count() as f64;
    if same == 0.0 {
        return 0.0;
    }
    let (precision, recall) = (same / all_answer, same / all_gold);
    2.0 * precision * recall / (precision + recall)
}

/// What one question counts.
#[derive(Clone, Copy)]
struct Score {
    exact: f64,
    f1: f64,
    has_answer: bool,
    /// Whether an answer was given.
    answered: bool,
    no_answer: f64,
}

/// The figures of questions; an answer counts as none where its `no_answer` is above the threshold.
pub fn scores(questions: &[Judged], threshold: f64) -> SquadScores {
    let all: Vec<Score> = questions.iter().map(score).collect();
    let part = |of: &dyn Fn(&Score) -> bool| {
        let chosen: Vec<&Score> = all.iter().filter(|score| of(score)).collect();
        let mean = |figure: &dyn Fn(&Score) -> f64| {
            let counted = |score: &&Score| match score.no_answer > threshold {
                true => f64::from(u8::from(!score.has_answer)),
                false => figure(score),
            };
            100.0 * chosen.iter().map(counted).sum::<f64>() / chosen.len().max(1) as f64
        };
        Part { exact: mean(&|score| score.exact), f1: mean(&|score| score.f1), total: chosen.len() }
    };
    let some = |part: Part| (part.total > 0).then_some(part);
    SquadScores {
        all: part(&|_| true),
        has_answer: some(part(&|score| score.has_answer)),
        no_answer: some(part(&|score| !score.has_answer)),
        best_exact: best(&all, &|score| score.exact),
        best_f1: best(&all, &|score| score.f1),
    }
}

fn score(question: &Judged) -> Score {
    let mut golds: Vec<&str> = question.golds.iter().copied().filter(|gold| !normalise(gold).is_empty()).collect();
    if golds.is_empty() {
        golds.push("");
    }
    Score {
        exact: f64::from(u8::from(golds.iter().any(|gold| exact(gold, question.answer)))),
        f1: golds.iter().map(|gold| f1(gold, question.answer)).fold(0.0, f64::max),
        has_answer: !question.golds.is_empty(),
        answered: !question.answer.is_empty(),
        no_answer: question.no_answer,
    }
}

/// Goes through the questions from the one that most likely has an answer, and takes the threshold at which the mean is best.
fn best(all: &[Score], figure: &dyn Fn(&Score) -> f64) -> Best {
    let mut order: Vec<&Score> = all.iter().collect();
    order.sort_by(|a, b| a.no_answer.total_cmp(&b.no_answer));
    let mut now = all.iter().filter(|score| !score.has_answer).count() as f64;
    let mut best = Best { value: now, threshold: 0.0 };
    for score in order {
        now += match (score.has_answer, score.answered) {
            (true, _) => figure(score),
            (false, true) => -1.0,
            (false, false) => 0.0,
        };
        if now > best.value {
            best = Best { value: now, threshold: score.no_answer };
        }
    }
    Best { value: 100.0 * best.value / all.len().max(1) as f64, ..best }
}

impl std::fmt::Display for SquadScores {
    /// One line for people.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Part { exact, f1, total } = self.all;
        write!(f, "exact match {exact:.2}%, F1 {f1:.2}% of {total} questions")
    }
}
