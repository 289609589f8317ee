//! Tasks about spans of the built-in stories, known by construction.
//!
//! - `tag`: the entities of a story: names of children (`PER`), and places (`LOC`), where they went, such as "the park", and where things
//!   were found, such as "under a tree". A kite that "flew into a tree" is at no such place, so that words alone do not tell.
//! - `answer`: two stories, of two children at two places who lost two things, and six questions: where each child was and where each thing
//!   was, which spans of the stories answer; and where another child was, and a thing with the look of one and the kind of the other, which
//!   nothing answers. So every question is asked about either story, and no form of it tells where its answer is.
//!
//! The characters are those of the stories, but for what separates words and rows.

use std::ops::Range;
use std::sync::Arc;

use rand_pcg::Pcg64;
use rand_pcg::rand_core::SeedableRng;

use super::{Split, below};
use crate::data::answers::{Gold, Question};
use crate::data::corpora::story::TALES;
use crate::data::corpora::story::cast::{Cast, Told};
use crate::data::corpora::story::grammar::Scene;
use crate::data::corpora::story::tales::{CHILD_SOMEWHERE, FINDING, LOSS};
use crate::data::tagged::Sentence;
use crate::data::tagged::tags::OUTSIDE;

/// Stands before a place in every wording.
const ARTICLE: &str = "the ";
/// What is asked about a child, and about a thing.
const ASKED: [&str; 2] = ["Say where {name} was.", "Say where the {look} {thing} was."];

/// The first `count` stories of a seed with tags, the same on every platform; no opening of a story is in two splits. Of the seed the low
/// 30 bits count.
pub fn sentences(split: Split, seed: u64, count: usize) -> Vec<Sentence> {
    seeds(split, seed).filter_map(|mut random| sentence(split, &mut random)).take(count).collect()
}

/// The first `count` questions of a seed, six about each context; as for [`sentences`].
pub fn questions(split: Split, seed: u64, count: usize) -> Vec<Question> {
    let sets = seeds(split, seed).filter_map(|mut random| set(split, &mut random));
    let mut questions: Vec<Question> = sets.take(count.div_ceil(6)).flatten().take(count).collect();
    for (line, question) in (1..).zip(&mut questions) {
        question.line = line;
        question.id = format!("{}-{line}", split.name());
    }
    questions
}

/// A generator for each story, or each set of questions.
fn seeds(split: Split, seed: u64) -> impl Iterator<Item = Pcg64> {
    let first = (split as u64) << 62 | (seed & 0x3fff_ffff) << 32;
    (first..).map(Pcg64::seed_from_u64)
}

/// A story with its tags, where its opening is of the split.
fn sentence(split: Split, random: &mut Pcg64) -> Option<Sentence> {
    let (plot, cast) = (TALES.plot(random), TALES.cast(random));
    if !split.has(&TALES.say(&plot[..1], &cast)) {
        return None;
    }
    let told = TALES.tell(&plot, &cast);
    let names = places(&told, "name").map(|place| (place, "PER"));
    let places = places(&told, "place").map(|place| (with_article(&told.text, place), "LOC"));
    let spots = self::places(&told, "spot").map(|place| (place, "LOC"));
    let entities: Vec<(Range<usize>, &str)> = names.chain(places).chain(spots).collect();
    let (mut words, mut tags) = (vec![], vec![]);
    for word in split_words(&told.text) {
        let tag = entities.iter().find(|(entity, _)| entity.contains(&word.start)).map(|(entity, kind)| {
            let prefix = if entity.start == word.start { "B" } else { "I" };
            format!("{prefix}-{kind}")
        });
        words.push(told.text[word].to_string());
        tags.push(tag.unwrap_or_else(|| OUTSIDE.into()));
    }
    Some(Sentence { line: 0, words, tags: Some(tags) })
}

/// The words of a text, and its periods and commas.
fn split_words(text: &str) -> Vec<Range<usize>> {
    let mut words: Vec<Range<usize>> = vec![];
    for (at, c) in text.char_indices() {
        match words.last_mut() {
            Some(last) if last.end == at && c.is_ascii_alphabetic() => last.end += 1,
            _ if c != ' ' => words.push(at..at + 1),
            _ => {}
        }
    }
    words
}

/// Six questions about two stories, where both openings are of the split.
fn set(split: Split, random: &mut Pcg64) -> Option<Vec<Question>> {
    let casts = [(); 2].map(|()| TALES.cast(random));
    let differ = |mark: &str| casts[0].row(TALES.table(mark)) != casts[1].row(TALES.table(mark));
    if !["name", "place", "look", "thing", "spot"].into_iter().all(differ) {
        return None;
    }
    let mut wording = |scene: &Scene| scene.wordings[below(scene.wordings.len() as u32, random)].1;
    let plots = [(); 2].map(|()| [wording(&CHILD_SOMEWHERE), wording(&LOSS), wording(&FINDING)]);
    let told = [0, 1].map(|story| TALES.tell(&plots[story], &casts[story]));
    if ![0, 1].into_iter().all(|story| split.has(&TALES.say(&plots[story][..1], &casts[story]))) {
        return None;
    }
    let second = told[0].text.len() + 1;
    let context: Arc<str> = format!("{} {}", told[0].text, told[1].text).into();
    let span = |story: usize, mark: &str| {
        let place = places(&told[story], mark).next()?;
        let place = if mark == "place" { with_article(&told[story].text, place) } else { place };
        let shift = story * second;
        Some(vec![Gold { range: place.start + shift..place.end + shift }])
    };
    let [name, look] = ["name", "look"].map(|mark| TALES.table(mark));
    let mut stranger = casts[0].clone();
    while casts.iter().any(|cast| cast.row(name) == stranger.row(name)) {
        stranger = stranger.with(name, TALES.row(name, random));
    }
    let mixed = casts[1].clone().with(look, casts[0].row(look));
    let mut asked: Vec<(String, Vec<Gold>)> = vec![];
    for (story, cast) in casts.iter().enumerate() {
        asked.push((say(0, cast), span(story, "place")?));
        asked.push((say(1, cast), span(story, "spot")?));
    }
    asked.push((say(0, &stranger), vec![]));
    asked.push((say(1, &mixed), vec![]));
    (1..asked.len()).for_each(|last| asked.swap(last, below(last as u32 + 1, random)));
    let question = |(question, answers)| Question {
        line: 0,
        id: String::new(),
        question,
        context: context.clone(),
        answers: Some(answers),
    };
    Some(asked.into_iter().map(question).collect())
}

fn say(asked: usize, cast: &Cast) -> String {
    TALES.say(&[ASKED[asked]], cast)
}

/// The places of a mark's words.
fn places(told: &Told, mark: &str) -> impl Iterator<Item = Range<usize>> {
    told.places(TALES.column(mark))
}

/// A place with the article that stands before it.
fn with_article(text: &str, place: Range<usize>) -> Range<usize> {
    let start = if text[..place.start].ends_with(ARTICLE) { place.start - ARTICLE.len() } else { place.start };
    start..place.end
}
