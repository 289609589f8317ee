//! Dialogues about the built-in stories: a passage with a question, and the answer, which the grammar knows.
//!
//! A passage is two sentences of a story, and questions ask for what they tell: who, where, what happened. Short ones go on with a
//! second question. The words of an answer are drawn beside all others of their kind, so that nothing but the passage tells them.
//! The characters are those of the stories, and a dialogue has at most [`MOST_CHARACTERS`].

use rand_pcg::Pcg64;
use rand_pcg::rand_core::SeedableRng;

use super::story::TALES;
use super::story::grammar::Scene;
use super::story::tales::{CHILD_SOMEWHERE, ESCAPE, LOSS, NEED, WISH};
use super::tasks::{Split, below};
use crate::data::chat_template::{ASSISTANT, Message, USER};

/// Characters of all messages of a dialogue, and one more for each.
pub const MOST_CHARACTERS: usize = 120;

/// A question and its answer, with marks of the grammar.
type Question = (&'static str, &'static str);

/// What any passage tells.
const OF_ALL: [Question; 2] = [("Say who was there.", "{name}."), ("Say where {he} was.", "at the {place}.")];

/// The second sentences of passages, and what each tells.
const PLOTS: [(&Scene, [Question; 2]); 4] = [
    (&LOSS, [("Say what {he} lost.", "a {look} {thing}."), ("Say what was lost.", "a {look} {thing}.")]),
    (&WISH, [("Say what {he} wished for.", "a {look} {thing}."), ("Say how it looked.", "{look}.")]),
    (&NEED, [("Say who was {need}.", "a {animal}."), ("Say how the {animal} was.", "{need}.")]),
    (&ESCAPE, [("Say what got away.", "a {look} {toy}."), ("Say what the {toy} did.", "it {escape}.")]),
];

/// The first `count` dialogues of a seed, the same on every platform; no passage is in two splits. Of the seed the low 30 bits count.
pub fn dialogues(split: Split, seed: u64, count: usize) -> Vec<Vec<Message>> {
    let first = (split as u64) << 62 | (seed & 0x3fff_ffff) << 32;
    let drawn = (first..).filter_map(|seed| dialogue(split, &mut Pcg64::seed_from_u64(seed)));
    drawn.take(count).collect()
}

/// A dialogue, where its passage is of the split and it is not too long.
fn dialogue(split: Split, random: &mut Pcg64) -> Option<Vec<Message>> {
    let (scene, of_plot) = PLOTS[below(PLOTS.len() as u32, random)];
    let cast = TALES.cast(random);
    let sentences = [&CHILD_SOMEWHERE, scene].map(|scene| scene.wordings[below(scene.wordings.len() as u32, random)].1);
    let passage = TALES.say(&sentences, &cast);
    let mut questions = [OF_ALL, of_plot].concat();
    let mut draw = || questions.remove(below(questions.len() as u32, random));
    let (asked, then) = (draw(), draw());
    let message = |role: &str, content: String| Message { role: role.into(), content };
    let said = |text: &'static str| TALES.say(&[text], &cast);
    let mut messages = vec![message(USER, format!("{passage} {}", said(asked.0))), message(ASSISTANT, said(asked.1))];
    let more = [message(USER, said(then.0)), message(ASSISTANT, said(then.1))];
    let length = |messages: &[Message]| messages.iter().map(|m| m.content.len() + 1).sum::<usize>();
    if length(&messages) + length(&more) <= MOST_CHARACTERS {
        messages.extend(more);
    }
    (split.has(&passage) && length(&messages) <= MOST_CHARACTERS).then_some(messages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::corpora::story::{grammatical, training_text};
    use std::collections::{BTreeMap, BTreeSet};

    #[test]
    fn dialogues_ask_for_what_a_passage_of_their_own_split_tells() {
        let letters: BTreeSet<char> = training_text(1, 20_000).chars().collect();
        let mut passages: BTreeMap<String, Split> = BTreeMap::new();
        let (mut longer, mut answers) = (0, BTreeMap::<String, usize>::new());
        for split in Split::ALL {
            let all = dialogues(split, 7, 300);
            assert_eq!(all, dialogues(split, 7, 300));
            assert_ne!(all, dialogues(split, 8, 300));
            for messages in &all {
                let roles: Vec<&str> = messages.iter().map(|m| m.role.as_str()).collect();
                assert!(roles == [USER, ASSISTANT] || roles == [USER, ASSISTANT, USER, ASSISTANT], "{roles:?}");
                longer += usize::from(roles.len() == 4);
                let (passage, question) = messages[0].content.split_once(" Say ").unwrap();
                passage.split_inclusive('.').for_each(|s| assert!(grammatical(s.trim()), "{s}"));
                assert!(question.ends_with('.'));
                assert!(messages.iter().flat_map(|m| m.content.chars()).all(|c| letters.contains(&c)), "{messages:?}");
                assert_eq!(*passages.entry(passage.into()).or_insert(split), split, "{passage}");
                // The passage has every word of the answer but its articles.
                let answer = messages[1].content.trim_end_matches('.');
                let words = answer.split(' ').filter(|word| !["a", "at", "it"].contains(word));
                words.for_each(|word| assert!(passage.contains(word), "{answer}: {passage}"));
                *answers.entry(answer.into()).or_default() += 1;
            }
        }
        assert!((30..300).contains(&longer), "{longer} of 900 are short enough for two questions");
        let most = answers.values().max().unwrap();
        assert!(answers.len() > 60 && *most < 90, "no answer is often right: {answers:?}");
    }
}
