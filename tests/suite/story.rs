//! The built-in corpus: its exact figures, its unambiguity and its sense.

use std::collections::BTreeSet;

use wgpt::data::corpora::story::grammar::{Entropy, Grammar, Scene, Table};
use wgpt::data::corpora::story::{self, TALES};

const STORIES: u64 = 20_000;

/// A mean of samples and the standard error of it.
fn mean_and_error(samples: &[f64]) -> (f64, f64) {
    let n = samples.len() as f64;
    let mean = samples.iter().sum::<f64>() / n;
    let variance = samples.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, (variance / n).sqrt())
}

/// The words of a story, without punctuation and in lower case.
fn words(story: &str) -> Vec<String> {
    story.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
}

/// Which of `vocabulary` a story uses.
fn used(story: &str, vocabulary: &[&'static str]) -> BTreeSet<&'static str> {
    let words = words(story);
    vocabulary.iter().copied().filter(|entry| words.iter().any(|word| word == entry)).collect()
}

/// The sentences of a text, each with its period.
fn sentences(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive('.').map(str::trim).filter(|sentence| !sentence.is_empty())
}

#[test]
fn exact_figures_agree_with_samples() {
    let stories: Vec<String> = (0..STORIES).map(story::story).collect();
    let nats: Vec<f64> = stories
        .iter()
        .map(|story| match TALES.derivations(story)[..] {
            [log_probability] => -log_probability,
            ref all => panic!("{} derivations of {story:?}", all.len()),
        })
        .collect();
    let characters: Vec<f64> = stories.iter().map(|story| story.chars().count() as f64).collect();
    let exact = story::entropy();
    for (exact, samples) in [(exact.nats_per_story, nats), (exact.characters_per_story, characters)] {
        let (mean, error) = mean_and_error(&samples);
        assert!(error < 0.002 * exact, "{error} is too wide an error to tell much about {exact}");
        assert!((mean - exact).abs() < 4.0 * error, "sampled {mean} ± {error}, computed {exact}");
    }
}

#[test]
fn no_text_has_two_derivations() {
    assert_eq!(TALES.ambiguity(), None);
}

#[test]
fn other_texts_have_no_derivation() {
    let story = story::story(3);
    let none: [f64; 0] = [];
    for text in ["", "\n", "Once upon a time.\n", story.trim_end(), &format!("{story}{story}"), &story[1..]] {
        assert_eq!(TALES.derivations(text), none, "{text:?}");
    }
}

/// A coin of odds 3 : 1 that is said twice, and a die of two sides thrown anew each time.
static COIN: Grammar = Grammar {
    tables: &[
        Table { marks: "coin", rows: &[(3, "head"), (1, "tails")] },
        Table { marks: "die", rows: &[(1, "one"), (1, "three")] },
    ],
    start: &[(
        1,
        &Scene {
            settles: &["coin"],
            wordings: &[(1, "{Coin}."), (1, "A {coin}.")],
            next: &[(1, &Scene { settles: &[], wordings: &[(1, "{coin} {die} {die}.")], next: &[] })],
        },
    )],
};

#[test]
fn a_small_grammar_has_the_figures_worked_out_by_hand() {
    let coin = 0.75 * (4.0_f64 / 3.0).ln() + 0.25 * 4.0_f64.ln();
    let Entropy { nats_per_story, characters_per_story } = COIN.entropy();
    // One bit for the wording and one for each die; a settled coin costs its draw once.
    assert!((nats_per_story - (coin + 3.0 * 2.0_f64.ln())).abs() < 1e-12);
    // The coin has 4.25 letters in the mean, twice; "A " stands in half of the stories; a die has 4 letters.
    assert!((characters_per_story - (2.0 * 4.25 + 1.0 + 2.0 * 4.0 + 6.0)).abs() < 1e-12);
    assert_eq!(COIN.ambiguity(), None);
    let [log_probability] = COIN.derivations("A head. head one three.\n")[..] else { panic!("not one derivation") };
    assert!((log_probability - (0.75_f64 / 8.0).ln()).abs() < 1e-12);
    assert!(COIN.derivations("A head. tails one three.\n").is_empty());
}

#[test]
fn ambiguities_are_found() {
    const TABLES: &[Table] = &[
        Table { marks: "name/he", rows: &[(1, "Tom/he"), (1, "Ben/he")] },
        Table { marks: "pet", rows: &[(1, "cat"), (1, "cat food")] },
    ];
    const END: &[(u32, &Scene)] = &[(1, &Scene { settles: &[], wordings: &[(1, "{He} sat.")], next: &[] })];
    let ambiguous: [&'static [(u32, &Scene)]; 5] = [
        // Twice the same.
        &[(1, &Scene { settles: &[], wordings: &[(1, "A {pet}."), (1, "A {pet}.")], next: &[] })],
        // A word that both readings can have.
        &[(1, &Scene { settles: &[], wordings: &[(1, "A {pet} food."), (1, "A {pet}.")], next: &[] })],
        // A name that is drawn and not told apart.
        &[(1, &Scene { settles: &["name"], wordings: &[(1, "{He} sat.")], next: &[] })],
        // A name that need not be told.
        &[(1, &Scene { settles: &["name"], wordings: &[(1, "{name} sat."), (1, "Fog.")], next: END })],
        // Two scenes with one text.
        &[
            (1, &Scene { settles: &[], wordings: &[(1, "Fog.")], next: &[] }),
            (1, &Scene { settles: &[], wordings: &[(1, "Fog.")], next: &[] }),
        ],
    ];
    for (case, start) in ambiguous.into_iter().enumerate() {
        assert!(Grammar { tables: TABLES, start }.ambiguity().is_some(), "case {case}");
    }
    // Whose name is known may be called "he".
    let start = &[(1, &Scene { settles: &["name"], wordings: &[(1, "{name} ran.")], next: END })];
    assert_eq!(Grammar { tables: TABLES, start }.ambiguity(), None);
}

#[test]
fn a_seed_stands_for_one_text() {
    assert_eq!(story::story(7), story::story(7));
    assert_eq!(story::training_text(7, 5_000), story::training_text(7, 5_000));
    assert_ne!(story::training_text(7, 5_000), story::training_text(8, 5_000));
    let distinct: BTreeSet<String> = (0..1_000).map(story::story).collect();
    assert!(distinct.len() > 990, "{} of 1000 stories differ", distinct.len());
    // The same on every platform and in every version.
    assert_eq!(
        story::story(0),
        "One sunny day, a quiet boy named Sam went to the lake. There he met a hungry fox. So he gave it his bread. The \
         fox ate it and said thank you. He went home singing.\n"
    );
}

#[test]
fn a_text_is_whole_stories_of_at_least_the_size() {
    assert_eq!(story::training_text(1, 0), "");
    for size in [1, 1_000, 100_000] {
        for text in [story::training_text(1, size), story::validation_text(1, size)] {
            assert!((size..size + 500).contains(&text.len()));
            assert!(text.ends_with('\n'));
            let stories = text.split_inclusive('\n').take(50);
            stories.for_each(|story| assert_eq!(TALES.derivations(story).len(), 1, "{story:?}"));
        }
    }
}

#[test]
fn held_out_stories_come_from_seeds_of_their_own() {
    for seed in [0, 1, u64::from(u32::MAX), u64::MAX] {
        let first = |text: String| text.split_inclusive('\n').next().map(str::to_owned);
        let block = (seed << 32) % (1 << 63);
        assert_eq!(first(story::training_text(seed, 1)), Some(story::story(block)));
        assert_eq!(first(story::validation_text(seed, 1)), Some(story::story((1 << 63) + block)));
    }
    let training = story::training_text(1, 400_000);
    let training: BTreeSet<&str> = training.lines().collect();
    let held_out = story::validation_text(1, 100_000);
    let (seen, all) = (held_out.lines().filter(|story| training.contains(story)).count(), held_out.lines().count());
    assert!(seen * 100 < all, "{seen} of {all} held-out stories are in the training text");
}

#[test]
fn the_characters_are_few() {
    let characters: BTreeSet<char> = story::training_text(0, 500_000).chars().collect();
    assert_eq!(characters.iter().collect::<String>(), "\n ,.ABFHLMORSTWabcdefghiklmnopqrstuvwxy");
}

#[test]
fn a_story_has_four_to_six_sentences_of_moderate_length() {
    for story in (0..2_000).map(story::story) {
        let lengths: Vec<usize> = sentences(&story).map(str::len).collect();
        assert!((4..=6).contains(&lengths.len()), "{story}");
        assert!(lengths.iter().all(|length| (12..=70).contains(length)), "{story}");
        assert_eq!(story.matches('\n').count(), 1);
    }
}

#[test]
fn pronouns_fit_the_name() {
    const GIRLS: [&str; 4] = ["mia", "anna", "lily", "rosa"];
    const BOYS: [&str; 4] = ["tom", "ben", "sam", "max"];
    const HERS: [&str; 3] = ["she", "her", "girl"];
    const HIS: [&str; 4] = ["he", "his", "him", "boy"];
    for story in (0..STORIES).map(story::story) {
        let (girls, boys) = (used(&story, &GIRLS).len(), used(&story, &BOYS).len());
        assert_eq!(girls + boys, 1, "one child: {story}");
        let wrong = if girls == 1 { used(&story, &HIS) } else { used(&story, &HERS) };
        assert!(wrong.is_empty(), "{wrong:?}: {story}");
    }
}

#[test]
fn a_story_keeps_to_its_place_animal_and_thing() {
    const PLACES: [&str; 8] = ["park", "lake", "farm", "pond", "hill", "barn", "mill", "beach"];
    const ANIMALS: [&str; 6] = ["fox", "dog", "cat", "bear", "duck", "hen"];
    const THINGS: [&str; 10] = ["ball", "drum", "book", "doll", "bell", "ring", "cup", "kite", "boat", "hat"];
    const GIFTS: [&str; 4] = ["bread", "scarf", "milk", "flower"];
    const LOOKS: [&str; 4] = ["red", "blue", "green", "tiny"];
    for story in (0..STORIES).map(story::story) {
        assert_eq!(used(&story, &PLACES).len(), 1, "one place: {story}");
        assert_eq!(used(&story, &ANIMALS).len(), 1, "one animal: {story}");
        assert_eq!(used(&story, &THINGS).len() + used(&story, &GIFTS).len(), 1, "one thing or gift: {story}");
        assert_eq!(used(&story, &LOOKS).len(), used(&story, &THINGS).len(), "a look with a thing: {story}");
    }
}

#[test]
fn the_outcome_fits_the_cause() {
    // Of each line a story tells all or nothing.
    const TOGETHER: [[&str; 3]; 8] = [
        ["hungry", " bread.", " ate it "],
        ["cold", " scarf.", " put it on "],
        ["thirsty", " milk.", " drank it "],
        ["sad", " flower.", " smelled it "],
        [" ball", " rolled into a hole.", " dug it out."],
        [" kite", " flew into a tree.", " climbed up to it."],
        [" boat", " drifted away.", " swam after it."],
        [" hat", " blew away.", " ran after it."],
    ];
    let mut told = [0; TOGETHER.len()];
    for story in (0..2_000).map(story::story) {
        for (told, [cause, event, effect]) in told.iter_mut().zip(TOGETHER) {
            assert_eq!(story.contains(event), story.contains(effect), "{event} without {effect}: {story}");
            assert!(!story.contains(effect) || story.contains(cause), "{effect} without {cause}: {story}");
            *told += usize::from(story.contains(effect));
        }
        let wished = story.split_once(" wished for a ").and_then(|(_, rest)| rest.split_once('.'));
        if let Some((wish, rest)) = wished {
            assert!(rest.contains(wish), "a wish for a {wish} that does not come true: {story}");
        }
    }
    assert!(told.iter().all(|told| *told > 10), "{told:?}");
}

#[test]
fn sentences_of_stories_are_grammatical() {
    for story in (0..2_000).map(story::story) {
        for sentence in sentences(&story) {
            assert!(story::grammatical(sentence), "{sentence:?}");
        }
    }
}

#[test]
fn other_sentences_are_not_grammatical() {
    for sentence in [
        "",
        ".",
        "Once there was a kind boy named Mia.",
        "Once there was a kind boy named Tom",
        "There he lost her red ball.",
        "There he lost his hungry ball.",
        "The fox ate it and was not cold any more.",
        "He had a red kite, but it blew away.",
        "He went home singing. He was very happy.",
        "There  he met a sad fox.",
        "he was very happy.",
    ] {
        assert!(!story::grammatical(sentence), "{sentence:?}");
    }
    // No sentence of the corpus is another with a character doubled.
    let text = story::training_text(0, 20_000);
    for sentence in sentences(&text) {
        for at in 0..sentence.len() {
            let stuttered = format!("{}{}", &sentence[..=at], &sentence[at..]);
            assert!(!story::grammatical(&stuttered), "{stuttered:?}");
        }
    }
}
