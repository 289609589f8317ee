//! The passages that the halves of examples are, and the word that must fit between them.

use std::collections::BTreeSet;

use rand_pcg::Pcg64;

use super::below;
use crate::data::corpora::story::TALES;
use crate::data::corpora::story::cast::Cast;
use crate::data::corpora::story::grammar::Scene;
use crate::data::corpora::story::tales::{
    CHILD_SOMEWHERE, ESCAPE, GIVING_BACK, LOSS, NEED, RELIEF, RESCUE, SHARING, WISH,
};
use crate::data::labelled::Task;

/// Scenes of the first and of the second half, and a mark of the table that both tell of, in different words.
type Halves = (&'static [&'static Scene], &'static [&'static Scene], &'static str);

/// Does the help fit?
const HELP: &[Halves] =
    &[(&[&CHILD_SOMEWHERE, &NEED], &[&SHARING], "need"), (&[&CHILD_SOMEWHERE, &ESCAPE], &[&RESCUE], "toy")];

/// Does the next sentence fit? Twice as often by the help as by the child or by the use of a gift.
const NEXT: &[Halves] = &[
    HELP[0],
    HELP[1],
    HELP[0],
    HELP[1],
    (&[&NEED, &SHARING], &[&RELIEF], "need"),
    (&[&NEED, &SHARING], &[&RELIEF], "need"),
    (&[&CHILD_SOMEWHERE], &[&LOSS], "name"),
    (&[&CHILD_SOMEWHERE], &[&WISH], "name"),
];

const ENDING: &[Halves] = &[HELP[0], HELP[1], (&[&NEED, &SHARING], &[&RELIEF], "need")];

/// Scenes whose two wordings say the same. Their subjects (a need, a gift, a way to get away) come again later in a story,
/// where the built-in model predicts them; names, places and looks it hardly predicts.
const SAME: &[&[&Scene]] = &[&[&NEED], &[&NEED, &SHARING], &[&ESCAPE], &[&RESCUE], &[&GIVING_BACK]];

/// The wordings of two halves.
pub(super) struct Plot {
    pub first: Vec<&'static str>,
    pub second: Vec<&'static str>,
    /// The table that both halves tell of, each with columns of its own; none for `similar`, where any may differ.
    key: Option<usize>,
}

impl Plot {
    /// Draws the scenes of a task and their wordings.
    pub fn draw(task: Task, random: &mut Pcg64) -> Plot {
        let halves = match task {
            Task::Classify => HELP,
            Task::Entail => NEXT,
            Task::Choose => ENDING,
            Task::Similar => return Plot::in_other_words(random),
        };
        loop {
            let (first, second, key) = halves[below(halves.len() as u32, random)];
            let mut worded = |scenes: &[&Scene]| -> Vec<&'static str> {
                scenes.iter().map(|scene| scene.wordings[below(scene.wordings.len() as u32, random)].1).collect()
            };
            let plot = Plot { first: worded(first), second: worded(second), key: Some(TALES.table(key)) };
            // "The fox ate it and was not hungry any more" repeats a word of the first half, which would give it away.
            if plot.key_columns(&plot.first).is_disjoint(&plot.key_columns(&plot.second)) {
                return plot;
            }
        }
    }

    fn in_other_words(random: &mut Pcg64) -> Plot {
        let scenes = SAME[below(SAME.len() as u32, random)];
        // The first scene's first wording stands in the first half, so that a pair is one pair whichever comes first.
        let wordings: Vec<usize> = (0..scenes.len()).map(|at| if at == 0 { 0 } else { below(2, random) }).collect();
        let worded = |other: usize| {
            let pairs = scenes.iter().zip(&wordings);
            pairs.map(|(scene, wording)| scene.wordings[(wording + other) % 2].1).collect()
        };
        Plot { first: worded(0), second: worded(1), key: None }
    }

    /// Another cast to tell the halves with, such that the crossed halves do not fit. The words that both halves share are the
    /// same but for the key; for `similar` all of them differ. None if the draw did not give one.
    pub fn other(&self, cast: &Cast, random: &mut Pcg64) -> Option<Cast> {
        let shared = &tables(&self.first) & &tables(&self.second);
        let mut other = TALES.cast(random);
        for table in shared {
            if self.key.is_some_and(|key| key != table) {
                other = other.with(table, cast.row(table));
            } else if other.row(table) == cast.row(table) {
                return None;
            }
        }
        let apart = |half: &[&'static str]| {
            let mixed = tables(half).into_iter().filter(|table| tables(&self.first).contains(table));
            let mixed = mixed.filter(|table| tables(&self.second).contains(table));
            let mixed = mixed.fold(cast.clone(), |mixed, table| mixed.with(table, other.row(table)));
            TALES.say(half, &mixed) != TALES.say(half, cast)
        };
        (apart(&self.first) && apart(&self.second)).then_some(other)
    }

    /// The cast with a row of the key.
    pub fn told(&self, cast: &Cast, row: usize) -> Cast {
        self.key.map_or_else(|| cast.clone(), |key| cast.clone().with(key, row))
    }

    /// A new cast with the words of the second half from `cast`.
    pub fn with_second_half_of(&self, cast: &Cast, random: &mut Pcg64) -> Cast {
        tables(&self.second).into_iter().fold(TALES.cast(random), |new, table| new.with(table, cast.row(table)))
    }

    fn key_columns(&self, half: &[&'static str]) -> BTreeSet<usize> {
        let marks = TALES.marks(half).into_iter().filter(|(table, _)| Some(*table) == self.key);
        marks.map(|(_, column)| column).collect()
    }
}

fn tables(half: &[&'static str]) -> BTreeSet<usize> {
    TALES.marks(half).into_iter().map(|(table, _)| table).collect()
}
