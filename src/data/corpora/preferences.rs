//! Preferences about answers to questions about a passage of the built-in stories, known by construction.
//!
//! An answer is true or false, a sentence or a few words, polite or not, and its grade says which are better than which:
//!
//!   grade = 2 if it is true + 1 if it is a sentence + 1 if it is polite
//!
//! A false answer names another of its kind, so that nothing but the passage tells it from a true one. The characters are those of the
//! stories.

use rand_pcg::Pcg64;
use rand_pcg::rand_core::SeedableRng;

use super::story::TALES;
use super::story::cast::Cast;
use super::story::tales::CHILD_SOMEWHERE;
use super::tasks::{Split, below};

/// What is asked: the question, the answer in a few words, the answer as a sentence, and the mark that both are about.
struct Asked {
    question: &'static str,
    words: &'static str,
    sentence: &'static str,
    mark: &'static str,
}

const ASKED: [Asked; 2] = [
    Asked { question: "Say who was there.", words: "{name}", sentence: "{name} was there", mark: "name" },
    Asked { question: "Say how {he} was.", words: "{trait}", sentence: "{name} was {trait}", mark: "trait" },
];

/// How a polite answer ends, and one that is not.
const ENDS: [&str; 2] = [", thank you.", "."];

/// A passage with a question.
pub struct Question {
    pub text: String,
    asked: &'static Asked,
    cast: Cast,
}

/// What is good about an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grade {
    pub is_true: bool,
    pub is_sentence: bool,
    pub is_polite: bool,
}

/// Two answers of different grades.
#[derive(Clone, Debug, PartialEq)]
pub struct Preference {
    pub chosen: String,
    pub rejected: String,
    /// 0, 1/3, 2/3 or 1 for a difference of 1, 2, 3 or 4 grades.
    pub margin: f64,
}

impl Grade {
    const ALL: [Grade; 8] = {
        let mut all = [Grade { is_true: false, is_sentence: false, is_polite: false }; 8];
        let mut n = 0;
        while n < 8 {
            all[n] = Grade { is_true: n & 4 > 0, is_sentence: n & 2 > 0, is_polite: n & 1 > 0 };
            n += 1;
        }
        all
    };

    /// From 0 to 4.
    pub fn value(self) -> u32 {
        2 * u32::from(self.is_true) + u32::from(self.is_sentence) + u32::from(self.is_polite)
    }
}

impl Question {
    /// The best answer.
    pub fn best(&self) -> String {
        TALES.say(&[self.asked.sentence], &self.cast) + ENDS[0]
    }

    /// The grade of any answer. One that is not of the task's form is neither true nor a sentence.
    pub fn grade(&self, answer: &str) -> Grade {
        let end = ENDS.iter().position(|end| answer.ends_with(end));
        let Some(end) = end else { return Grade::default() };
        let said = &answer[..answer.len() - ENDS[end].len()];
        let Asked { words, sentence, mark, .. } = self.asked;
        let is_true = [words, sentence].iter().any(|form| TALES.say(&[form], &self.cast) == said);
        let [name, table] = ["name", mark].map(|mark| TALES.table(mark));
        let mut casts = (0..TALES.rows(name))
            .flat_map(|other| (0..TALES.rows(table)).map(move |row| (other, row)))
            .map(|(other, row)| self.cast.clone().with(name, other).with(table, row));
        let is_sentence = casts.any(|cast| TALES.say(&[sentence], &cast) == said);
        Grade { is_true, is_sentence, is_polite: end == 0 }
    }

    /// An answer of a grade.
    pub fn answer(&self, grade: Grade, random: &mut Pcg64) -> String {
        let Asked { words, sentence, mark, .. } = self.asked;
        let table = TALES.table(mark);
        let mut cast = self.cast.clone();
        while !grade.is_true && cast.row(table) == self.cast.row(table) {
            cast = cast.with(table, below(TALES.rows(table) as u32, random));
        }
        let form = if grade.is_sentence { sentence } else { words };
        TALES.say(&[form], &cast) + ENDS[usize::from(!grade.is_polite)]
    }

    /// An answer as people give them: three of four are true, every second is a sentence, every fourth polite.
    pub fn common(&self, random: &mut Pcg64) -> String {
        let grade = Grade {
            is_true: below(4, random) > 0,
            is_sentence: below(2, random) > 0,
            is_polite: below(4, random) == 0,
        };
        self.answer(grade, random)
    }

    /// Two answers of different grades.
    pub fn preference(&self, random: &mut Pcg64) -> Preference {
        loop {
            let [first, second] = [(); 2].map(|()| Grade::ALL[below(8, random)]);
            let by = first.value().abs_diff(second.value());
            if by > 0 {
                let (better, worse) = if first.value() > second.value() { (first, second) } else { (second, first) };
                let [chosen, rejected] = [better, worse].map(|grade| self.answer(grade, random));
                return Preference { chosen, rejected, margin: f64::from(by - 1) / 3.0 };
            }
        }
    }
}

/// The first `count` questions of a seed, each with a generator for its answers; the same on every platform. No passage is in two splits.
/// Of the seed the low 30 bits count.
pub fn questions(split: Split, seed: u64, count: usize) -> Vec<(Question, Pcg64)> {
    let first = (split as u64) << 62 | (seed & 0x3fff_ffff) << 32;
    let drawn = (first..).filter_map(|seed| question(split, Pcg64::seed_from_u64(seed)));
    drawn.take(count).collect()
}

/// A question, where its passage is of the split.
fn question(split: Split, mut random: Pcg64) -> Option<(Question, Pcg64)> {
    let cast = TALES.cast(&mut random);
    let wordings = CHILD_SOMEWHERE.wordings;
    let passage = TALES.say(&[wordings[below(wordings.len() as u32, &mut random)].1], &cast);
    let asked = &ASKED[below(ASKED.len() as u32, &mut random)];
    let text = format!("{passage} {}", TALES.say(&[asked.question], &cast));
    split.has(&passage).then_some((Question { text, asked, cast }, random))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::corpora::story::training_text;
    use std::collections::BTreeSet;

    #[test]
    fn an_answer_has_the_grade_that_it_was_made_with_and_pairs_are_of_different_ones() {
        let letters: BTreeSet<char> = training_text(1, 20_000).chars().collect();
        let (mut margins, mut passages) = (BTreeSet::new(), [(); 3].map(|()| BTreeSet::new()));
        for split in Split::ALL {
            for (question, mut random) in questions(split, 7, 100) {
                for grade in Grade::ALL {
                    let answer = question.answer(grade, &mut random);
                    assert_eq!(question.grade(&answer), grade, "{}: {answer}", question.text);
                    assert!(answer.chars().all(|c| letters.contains(&c)), "{answer}");
                    assert!(question.text.len() + answer.len() < 126, "{} {answer}", question.text);
                }
                assert_eq!(question.grade(&question.best()).value(), 4);
                assert_eq!(question.grade("a fox").value(), 0);
                assert_eq!(question.grade("ab , thank you.").value(), 1);
                let Preference { chosen, rejected, margin } = question.preference(&mut random);
                let by = question.grade(&chosen).value() - question.grade(&rejected).value();
                assert!((margin * 3.0 - f64::from(by - 1)).abs() < 1e-12, "{chosen} {rejected} {margin}");
                margins.insert(by);
                passages[split as usize].insert(question.text.split(" Say ").next().unwrap().to_string());
            }
        }
        assert_eq!(margins.len(), 4, "every difference of grades is there");
        assert!(passages[0].is_disjoint(&passages[1]) && passages[0].is_disjoint(&passages[2]));
        assert!(passages[1].is_disjoint(&passages[2]));
        let texts = |seed| questions(Split::Train, seed, 9).into_iter().map(|(q, _)| q.text).collect::<Vec<_>>();
        assert!(texts(7) == texts(7) && texts(7) != texts(8));
    }
}
