//! Labelled tasks from the grammar of the built-in stories, their labels known by construction.
//!
//! - `classify`: does the story end happily? A need is met by a gift, a toy gets away and an animal goes after it: it
//!   is `happy` where the help fits, and `sad` where it does not, as bread does not warm a fox that is cold.
//! - `entail`: does the hypothesis follow on the premise? `yes`, or `no` where the help does not fit the trouble, the
//!   use not the gift, or "he" not a girl.
//! - `similar`: `same` where two texts tell the same in other words, `different` where they tell of another child,
//!   animal, need and thing.
//! - `choose`: which of four passages goes on with the story?
//!
//! A text has two halves, and its label says whether they belong together. Examples are made in sets, in which
//! **every half stands in each role equally often**: of two texts that tell of different things, say (x, y) and (x',
//! y'), the set has these two and the crossed ones (x, y') and (x', y). So no word of either half and no bag of words
//! tells the label, nor does the first word; halves are drawn until lengths tell nothing either. The right one of
//! four choices is another for each of the set's four contexts. Only both halves together tell the label.
//!
//! The characters are those of the stories. A text is at most [`MOST_CHARACTERS`] long.

mod plots;
pub mod spans;

use rand_pcg::Pcg64;
use rand_pcg::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

use self::plots::Plot;
use super::story::TALES;
use crate::data::labelled::{Example, Task};
use crate::{error::Result, fail};

/// Characters of all texts of an example; of a context and one of its choices.
pub const MOST_CHARACTERS: usize = 110;

/// Draws of a context before other choices are drawn.
const ATTEMPTS: usize = 100;

/// Which part of the examples: no first half is in two of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    Train,
    Validation,
    Test,
}

impl Split {
    pub const ALL: [Split; 3] = [Split::Train, Split::Validation, Split::Test];

    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Validation => "validation",
            Split::Test => "test",
        }
    }

    /// The part of that name.
    pub fn named(name: &str) -> Result<Split> {
        let found = Split::ALL.into_iter().find(|split| split.name() == name);
        let Some(split) = found else { fail!(Usage, "there is no split {name}; there are train, validation, test") };
        Ok(split)
    }

    /// Whether a first half is of this part: half of them are for training, a quarter each for the others.
    pub(super) fn has(self, half: &str) -> bool {
        let parts = [Split::Train, Split::Train, Split::Validation, Split::Test];
        parts[usize::from(Sha256::digest(half)[0] % 4)] == self
    }
}

/// The first `count` examples of a seed, the same on every platform. Their labels are balanced.
///
/// Of the seed the low 30 bits count.
pub fn examples(task: Task, split: Split, seed: u64, count: usize) -> Vec<Example> {
    let mut examples = vec![];
    // Each set has a seed of its own, and each split its own seeds.
    let first = (split as u64) << 62 | (seed & 0x3fff_ffff) << 32;
    for set in first.. {
        if examples.len() >= count {
            break;
        }
        examples.extend(example_set(task, split, &mut Pcg64::seed_from_u64(set)));
    }
    examples.truncate(count);
    examples
}

/// Four examples, of which any part that comes first is balanced as far as its number allows.
fn example_set(task: Task, split: Split, random: &mut Pcg64) -> Vec<Example> {
    let labels = match task {
        Task::Classify => ["happy", "sad"],
        Task::Entail => ["yes", "no"],
        Task::Similar => ["same", "different"],
        Task::Choose => return choices(split, random),
    };
    let [x, y] = pair(task, split, random);
    // Positive, negative, positive, negative; or the other way round.
    let turn = below(2, random);
    let of = |n: usize| {
        let right = (n + turn).is_multiple_of(2);
        let (first, second) = (&x[n / 2], &y[if right { n / 2 } else { 1 - n / 2 }]);
        let texts = match task {
            Task::Classify => vec![format!("{first} {second}")],
            Task::Similar if turn == 1 => vec![second.clone(), first.clone()],
            _ => vec![first.clone(), second.clone()],
        };
        Example { line: 0, texts, choices: vec![], label: Some(labels[usize::from(!right)].into()), rendered: false }
    };
    (0..4).map(of).collect()
}

/// Two first halves and the two second halves that belong to them.
fn pair(task: Task, split: Split, random: &mut Pcg64) -> [[String; 2]; 2] {
    loop {
        let plot = Plot::draw(task, random);
        let cast = TALES.cast(random);
        let Some(other) = plot.other(&cast, random) else { continue };
        let x = [&cast, &other].map(|cast| TALES.say(&plot.first, cast));
        let y = [&cast, &other].map(|cast| TALES.say(&plot.second, cast));
        // Crossing two texts keeps the pair of lengths if either half of both is as long.
        let lengths = x[0].len() == x[1].len() || y[0].len() == y[1].len();
        let longest = x.iter().map(String::len).max().unwrap_or(0) + y.iter().map(String::len).max().unwrap_or(0) + 1;
        if lengths && longest <= MOST_CHARACTERS && x.iter().all(|x| split.has(x)) {
            return [x, y];
        }
    }
}

/// Four contexts with the same four choices, of which each is right once.
fn choices(split: Split, random: &mut Pcg64) -> Vec<Example> {
    loop {
        let plot = Plot::draw(Task::Choose, random);
        let shared = TALES.cast(random);
        let choices = shuffled(random).map(|row| (row, TALES.say(&plot.second, &plot.told(&shared, row))));
        let most = MOST_CHARACTERS - 1 - choices.iter().map(|(_, choice)| choice.len()).max().unwrap_or(0);
        // Words that no choice mentions may differ from context to context.
        let mut context = |row: usize| {
            let cast = plot.told(&plot.with_second_half_of(&shared, random), row);
            Some(TALES.say(&plot.first, &cast)).filter(|context| context.len() <= most && split.has(context))
        };
        // Some contexts have few forms, of which none may be of the split.
        let contexts: Vec<String> =
            choices.iter().filter_map(|(row, _)| (0..ATTEMPTS).find_map(|_| context(*row))).collect();
        if contexts.len() == choices.len() {
            let choices = choices.map(|(_, choice)| choice);
            let of = |right: usize| Example {
                line: 0,
                texts: vec![contexts[right].clone()],
                choices: choices.to_vec(),
                label: Some(right.to_string()),
                rendered: false,
            };
            return shuffled(random).map(of).to_vec();
        }
    }
}

/// 0, 1, 2 and 3 in a random order.
fn shuffled(random: &mut Pcg64) -> [usize; 4] {
    let mut order = [0, 1, 2, 3];
    (1..4).for_each(|last| order.swap(last, below(last as u32 + 1, random)));
    order
}

/// A number below `bound`, which is small.
pub(super) fn below(bound: u32, random: &mut Pcg64) -> usize {
    ((u64::from(random.next_u32()) * u64::from(bound)) >> 32) as usize
}
