//! Tasks about spans of the built-in stories: names and places, and where somebody or something was.

use std::collections::BTreeSet;
use wgpt::data::answers::Question;
use wgpt::data::corpora::story;
use wgpt::data::corpora::tasks::Split;
use wgpt::data::corpora::tasks::spans::{questions, sentences};
use wgpt::data::tagged::Sentence;
use wgpt::data::tagged::tags::spans;

#[test]
fn stories_have_names_and_places_by_construction() {
    let names = ["Mia", "Tom", "Anna", "Ben", "Lily", "Sam", "Rosa", "Max"];
    let mut openings: Vec<BTreeSet<String>> = vec![];
    let (mut multiple, mut outside) = (0, 0);
    for split in Split::ALL {
        let all = sentences(split, 3, 100);
        assert_eq!(all.len(), 100);
        for Sentence { words, tags, .. } in &all {
            let tags = tags.as_ref().unwrap();
            for (at, word) in words.iter().enumerate() {
                assert_eq!(tags[at] == "B-PER", names.contains(&word.as_str()), "{words:?}");
                outside += usize::from(word == "tree" && tags[at] == "O");
            }
            for span in spans(tags) {
                let text = words[span.words.0..span.words.1].join(" ");
                let is_place = text.starts_with("the ")
                    || text.starts_with("under ")
                    || text.starts_with("behind ")
                    || text.starts_with("in ");
                assert_eq!(span.kind == "LOC", is_place, "{text}");
                multiple += usize::from(span.words.1 - span.words.0 > 2);
            }
            let text = words.join(" ").replace(" .", ".").replace(" ,", ",");
            assert!(text.split_inclusive('.').all(|sentence| story::grammatical(sentence.trim())), "{text}");
        }
        openings
            .push(all.iter().map(|s| s.words[..s.words.iter().position(|w| w == ".").unwrap()].join(" ")).collect());
    }
    assert!(multiple > 20 && outside > 5, "{multiple} spots, {outside} trees that are none");
    assert!(
        openings[0].is_disjoint(&openings[1])
            && openings[1].is_disjoint(&openings[2])
            && openings[0].is_disjoint(&openings[2])
    );
    assert_eq!(sentences(Split::Test, 1, 9), sentences(Split::Test, 1, 30)[..9]);
    assert_ne!(sentences(Split::Test, 1, 9), sentences(Split::Test, 2, 9));
}

#[test]
fn built_in_questions_are_answered_by_construction() {
    let mut contexts: Vec<BTreeSet<String>> = vec![];
    for split in Split::ALL {
        let all = questions(split, 5, 120);
        assert_eq!(all.len(), 120);
        for set in all.chunks(6) {
            let context = &set[0].context;
            assert!(context.split_inclusive('.').all(|sentence| story::grammatical(sentence.trim())), "{context}");
            let mut spans = BTreeSet::new();
            for Question { question, answers, .. } in set {
                let subject = question.strip_prefix("Say where ").and_then(|rest| rest.strip_suffix(" was.")).unwrap();
                let Some(gold) = answers.as_ref().unwrap().first() else {
                    assert!(!context.contains(subject.trim_start_matches("the ")), "{question} {context}");
                    continue;
                };
                // The answer comes after its subject, and before the other child's story.
                let at = context.find(subject.trim_start_matches("the ")).unwrap();
                let middle = set
                    .iter()
                    .filter(|q| !q.texts().is_empty())
                    .filter_map(|q| context.find(q.texts()[0]))
                    .max()
                    .unwrap();
                assert!(at < gold.range.start && gold.range.start <= middle, "{question} {context}");
                assert_eq!(context[at..gold.range.start].matches(" named ").count(), 0, "{question} {context}");
                spans.insert(gold.range.start);
            }
            assert_eq!(spans.len(), 4, "{context}");
        }
        contexts.push(all.iter().map(|q| q.context.split_inclusive('.').next().unwrap().to_string()).collect());
    }
    assert!(
        contexts[0].is_disjoint(&contexts[1])
            && contexts[0].is_disjoint(&contexts[2])
            && contexts[1].is_disjoint(&contexts[2])
    );
    assert_eq!(questions(Split::Test, 1, 7), questions(Split::Test, 1, 20)[..7]);
    assert_ne!(questions(Split::Test, 1, 6), questions(Split::Test, 2, 6));
    // Either story is asked about equally often.
    let all = questions(Split::Train, 1, 600);
    let answered = all.iter().filter(|question| !question.texts().is_empty());
    let second = |question: &&Question| {
        let child = question.context.match_indices(" named ").nth(1).unwrap().0;
        question.answers.as_ref().unwrap()[0].range.start > child
    };
    assert_eq!((answered.clone().count(), answered.filter(second).count()), (400, 200));
}
