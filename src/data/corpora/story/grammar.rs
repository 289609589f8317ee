//! Probabilistic grammars whose entropy is a finite sum.
//!
//! A [`Grammar`] is data: word [`Table`]s and a graph of [`Scene`]s. It has three readings, and all three follow the
//! same description: [`Grammar::write`] draws a story, [`Grammar::entropy`] adds up what its draws are worth, and
//! [`Grammar::derivations`] finds the draws that a given text came from.
//!
//! The odds of a draw depend on the scene alone: what a story remembers decides which word a mark stands for (`{he}`
//! after Tom is "he"), and never how likely a wording or a row is. So by the chain rule the entropy of the draws is an
//! expectation over the scenes passed through, and by linearity so is the number of characters: a mark adds the mean
//! length of its column, whatever else the story says.
//!
//! The entropy of the draws is the entropy of the *text* if no two ways of drawing write the same text.
//! [`Grammar::ambiguity`] checks that for all of them.

use std::ops::Add;

use rand_pcg::Pcg64;
use rand_pcg::rand_core::Rng;

/// Options and their weights: an option is drawn with probability weight / sum of weights.
pub type Weighted<T = &'static str> = &'static [(u32, T)];

/// Words that belong together, such as a name and its pronouns.
pub struct Table {
    /// The marks that stand for the columns, separated by `/`. Of a mark with a capital, `{He}`, the word gets one.
    pub marks: &'static str,
    /// The rows, their words separated by `/` in the order of the marks.
    pub rows: Weighted,
}

/// One passage of a story and the passages that may follow it.
pub struct Scene {
    /// The tables, each named by one of its marks, whose row is settled from here to the story's end: the first
    /// mention draws it and later ones repeat it. A table never settled is drawn anew at each mention.
    pub settles: &'static [&'static str],
    /// The ways to put it: one sentence or more, with `{marks}` where a table's word goes.
    pub wordings: Weighted,
    /// The scenes of which one follows. The story ends where there are none.
    pub next: Weighted<&'static Scene>,
}

/// A grammar of stories: passages parted by a space, and a newline after the last.
pub struct Grammar {
    pub tables: &'static [Table],
    /// The scenes of which a story begins with one.
    pub start: Weighted<&'static Scene>,
}

/// The exact figures of a grammar, or of a part of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Entropy {
    /// Entropy of one story, −Σ p ln p over all stories, in nats.
    pub nats_per_story: f64,
    /// Expected length of one story in characters, its newline included.
    pub characters_per_story: f64,
}

impl Entropy {
    /// The least mean loss, in nats per character, that a model of characters can reach on an endless stream of
    /// independent stories when its context holds the whole story so far: H(story) / E\[characters of a story\].
    pub fn nats_per_character(&self) -> f64 {
        self.nats_per_story / self.characters_per_story
    }
}

impl Add for Entropy {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            nats_per_story: self.nats_per_story + other.nats_per_story,
            characters_per_story: self.characters_per_story + other.characters_per_story,
        }
    }
}

impl Grammar {
    /// Draws one story, newline included.
    pub fn write(&self, random: &mut Pcg64) -> String {
        let mut text = String::new();
        let mut memory = self.blank();
        let mut scenes = self.start;
        while !scenes.is_empty() {
            let scene = scenes[draw(scenes, random)].1;
            self.settle(scene, &mut memory);
            for piece in self.pieces(scene.wordings[draw(scene.wordings, random)].1) {
                match piece {
                    Piece::Plain(plain) => text.push_str(plain),
                    Piece::Mark(mark) => {
                        let rows = self.tables[mark.table].rows;
                        let row = memory[mark.table].row().unwrap_or_else(|| draw(rows, random));
                        memory[mark.table].learn(row);
                        text.push_str(&mark.word(rows[row].1));
                    }
                }
            }
            text.push(scene.separator());
            scenes = scene.next;
        }
        text
    }

    /// The exact entropy and expected length of a story.
    ///
    /// It is the entropy of the text, and not only that of the draws, where there is no [`Grammar::ambiguity`].
    pub fn entropy(&self) -> Entropy {
        self.entropy_from(self.start, &self.blank())
    }

    /// The ways to derive `story` (newline included), each as the natural logarithm of its probability: one for a
    /// story of an unambiguous grammar, none for any other text.
    pub fn derivations(&self, story: &str) -> Vec<f64> {
        let mut unfinished = vec![(self.start, Path::new(self.blank()))];
        let mut found = Vec::new();
        while let Some((scenes, path)) = unfinished.pop() {
            for (weight, scene) in scenes {
                let path = Path { nats: path.nats + surprise(*weight, scenes), ..path.clone() };
                for path in self.passages(scene, path, &|text| story.starts_with(text)) {
                    match scene.next {
                        [] if path.text == story => found.push(-path.nats),
                        [] => {}
                        next => unfinished.push((next, path)),
                    }
                }
            }
        }
        found
    }

    /// Whether some story has the sentence, which is to be given up to and with its period.
    pub fn grammatical(&self, sentence: &str) -> bool {
        self.said_from(self.start, &self.blank(), sentence)
    }

    /// Looks for two derivations of one text, over the whole grammar and not a sample of it, and returns the passages
    /// where they part.
    ///
    /// A story is read passage by passage. For each passage, all wordings with all words they can take are compared,
    /// of all scenes that may stand there. If neither begins with the other for any two that agree on the rows settled
    /// before, then a text goes on in one way only; if each mentions every row that its scene settles, that way also tells
    /// the rows that later passages rely on. By induction a text then has one derivation, and no story begins with another.
    pub fn ambiguity(&self) -> Option<[String; 2]> {
        self.ambiguity_from(self.start, &self.blank())
    }

    fn entropy_from(&self, scenes: Weighted<&'static Scene>, memory: &[Memory]) -> Entropy {
        if scenes.is_empty() {
            return Entropy::default();
        }
        mixture(scenes, |scene| {
            let mut memory = memory.to_vec();
            self.settle(scene, &mut memory);
            let rows = scene.settles.iter().map(|mark| self.tables[self.mark(mark).table].rows);
            let separator = Entropy { nats_per_story: 0.0, characters_per_story: 1.0 };
            rows.fold(separator, |sum, rows| sum + mixture(rows, |_| Entropy::default()))
                + mixture(scene.wordings, |wording| self.wording_entropy(wording, &memory))
                + self.entropy_from(scene.next, &memory)
        })
    }

    /// The entropy of the rows that a wording draws anew, and its expected length; settled rows are counted where they settle.
    fn wording_entropy(&self, wording: &'static str, memory: &[Memory]) -> Entropy {
        let length = |text: &str| Entropy { nats_per_story: 0.0, characters_per_story: text.chars().count() as f64 };
        self.pieces(wording).fold(Entropy::default(), |sum, piece| match piece {
            Piece::Plain(plain) => sum + length(plain),
            Piece::Mark(mark) => {
                let drawn = mixture(self.tables[mark.table].rows, |row| length(&mark.word(row)));
                let settled = memory[mark.table] != Memory::Anew;
                sum + if settled { Entropy { nats_per_story: 0.0, ..drawn } } else { drawn }
            }
        })
    }

    fn said_from(&self, scenes: Weighted<&'static Scene>, memory: &[Memory], sentence: &str) -> bool {
        scenes.iter().any(|(_, scene)| {
            // No row is drawn on the way here: every one can have been, for draws do not depend on each other.
            let mut memory = memory.to_vec();
            self.settle(scene, &mut memory);
            let mut wordings = scene.wordings.iter().flat_map(|(_, wording)| wording.split_inclusive('.'));
            wordings.any(|wording| {
                let path = Path::new(memory.clone());
                self.readings(wording.trim_start(), path, &|text| sentence.starts_with(text))
                    .iter()
                    .any(|path| path.text == sentence)
            }) || self.said_from(scene.next, &memory, sentence)
        })
    }

    fn ambiguity_from(&self, scenes: Weighted<&'static Scene>, known: &[Memory]) -> Option<[String; 2]> {
        let mut passages = Vec::new();
        for (_, scene) in scenes {
            for path in self.passages(scene, Path::new(known.to_vec()), &|_| true) {
                let settled = |mark: &&str| path.memory[self.mark(mark).table].row().is_some();
                if !scene.settles.iter().all(settled) {
                    return Some([path.text.clone(), path.text]);
                }
                passages.push(path);
            }
        }
        passages.sort_by(|a, b| a.text.cmp(&b.text));
        for (i, first) in passages.iter().enumerate() {
            // In alphabetical order the texts that begin with this one come right after it.
            let mut longer = passages[i + 1..].iter().take_while(|path| path.text.starts_with(&first.text));
            if let Some(second) = longer.find(|second| first.agrees(second, known)) {
                return Some([first.text.clone(), second.text.clone()]);
            }
        }
        scenes.iter().find_map(|(_, scene)| {
            let mut known = known.to_vec();
            self.settle(scene, &mut known);
            self.ambiguity_from(scene.next, &known)
        })
    }

    /// All ways to go on from `path` through one scene, separator included, whose text `keep` accepts.
    fn passages(&self, scene: &Scene, mut path: Path, keep: &dyn Fn(&str) -> bool) -> Vec<Path> {
        self.settle(scene, &mut path.memory);
        let mut passages = Vec::new();
        for (weight, wording) in scene.wordings {
            let path = Path { nats: path.nats + surprise(*weight, scene.wordings), ..path.clone() };
            passages.extend(self.readings(wording, path, keep));
        }
        passages.iter_mut().for_each(|path| path.text.push(scene.separator()));
        passages.retain(|path| keep(&path.text));
        passages
    }

    /// All ways to go on from `path` with one wording, whose text `keep` accepts.
    fn readings(&self, wording: &'static str, path: Path, keep: &dyn Fn(&str) -> bool) -> Vec<Path> {
        self.pieces(wording).fold(vec![path], |paths, piece| {
            let longer = paths.into_iter().flat_map(|path| self.extended(path, &piece));
            longer.filter(|path| keep(&path.text)).collect()
        })
    }

    /// All ways to go on from `path` with one piece of a wording.
    fn extended(&self, mut path: Path, piece: &Piece) -> Vec<Path> {
        match piece {
            Piece::Plain(plain) => {
                path.text.push_str(plain);
                vec![path]
            }
            Piece::Mark(mark) => {
                let rows = self.tables[mark.table].rows;
                if let Some(row) = path.memory[mark.table].row() {
                    path.text.push_str(&mark.word(rows[row].1));
                    return vec![path];
                }
                let drawn = rows.iter().enumerate().map(|(row, (weight, words))| {
                    let mut path = Path { nats: path.nats + surprise(*weight, rows), ..path.clone() };
                    path.memory[mark.table].learn(row);
                    path.text.push_str(&mark.word(words));
                    path
                });
                drawn.collect()
            }
        }
    }

    /// The memory of a story not begun.
    fn blank(&self) -> Vec<Memory> {
        vec![Memory::Anew; self.tables.len()]
    }

    fn settle(&self, scene: &Scene, memory: &mut [Memory]) {
        scene.settles.iter().for_each(|mark| memory[self.mark(mark).table] = Memory::Open);
    }

    /// The plain text and the marks of a wording: braces part them, so they alternate.
    pub(super) fn pieces(&self, wording: &'static str) -> impl Iterator<Item = Piece> {
        let parts = wording.split(['{', '}']).enumerate();
        parts.map(|(i, part)| if i % 2 == 0 { Piece::Plain(part) } else { Piece::Mark(self.mark(part)) })
    }

    /// The column that a mark stands for.
    ///
    /// # Panics
    ///
    /// If no table has it, which is an error in the grammar.
    pub(super) fn mark(&self, name: &str) -> Mark {
        let find = |(table, words): (usize, &Table)| {
            let column = words.marks.split('/').position(|mark| mark.eq_ignore_ascii_case(name))?;
            Some(Mark { table, column, capital: name.starts_with(|c: char| c.is_ascii_uppercase()) })
        };
        let found = self.tables.iter().enumerate().find_map(find);
        found.unwrap_or_else(|| panic!("the grammar has no table for the mark {{{name}}}"))
    }
}

impl Scene {
    fn separator(&self) -> char {
        if self.next.is_empty() { '\n' } else { ' ' }
    }
}

/// A stretch of a wording.
pub(super) enum Piece {
    Plain(&'static str),
    Mark(Mark),
}

/// The column of a table that a mark stands for.
pub(super) struct Mark {
    pub table: usize,
    pub column: usize,
    capital: bool,
}

impl Mark {
    /// The word for the mark, out of the row's words.
    pub fn word(&self, row: &str) -> String {
        let mut word = row.split('/').nth(self.column).unwrap_or_default().to_owned();
        if self.capital
            && let Some(first) = word.get_mut(..1)
        {
            first.make_ascii_uppercase();
        }
        word
    }
}

/// A story's knowledge of one table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Memory {
    /// Not settled: each mention draws for itself.
    Anew,
    /// Settled and not mentioned yet: the next mention draws the row.
    Open,
    /// Settled and drawn.
    Row(usize),
}

impl Memory {
    fn row(self) -> Option<usize> {
        if let Self::Row(row) = self { Some(row) } else { None }
    }

    fn learn(&mut self, row: usize) {
        if *self == Self::Open {
            *self = Self::Row(row);
        }
    }
}

/// The beginning of a story, its knowledge by then, and −ln of the probability of its draws.
#[derive(Clone)]
struct Path {
    text: String,
    memory: Vec<Memory>,
    nats: f64,
}

impl Path {
    fn new(memory: Vec<Memory>) -> Self {
        Self { text: String::new(), memory, nats: 0.0 }
    }

    /// Whether one story can have both, as far as the tables settled in `known` tell.
    fn agrees(&self, other: &Self, known: &[Memory]) -> bool {
        known.iter().zip(self.memory.iter().zip(&other.memory)).all(|(known, (one, two))| {
            *known == Memory::Anew || one == two || *one == Memory::Open || *two == Memory::Open
        })
    }
}

/// The index of an option, drawn by its weight (to within 2⁻³² of its probability).
pub(super) fn draw<T>(options: Weighted<T>, random: &mut Pcg64) -> usize {
    // The high word of a 32-bit fraction times the total is below the total, on every platform alike.
    let mut point = (u64::from(random.next_u32()) * u64::from(total(options))) >> 32;
    let within = |(weight, _): &(u32, T)| {
        let here = point < u64::from(*weight);
        point = point.saturating_sub(u64::from(*weight));
        here
    };
    options.iter().position(within).unwrap_or_default()
}

/// Draws one of the options and then its words: H(weights) + Σ p · `inner`, lengths Σ p · `inner`.
fn mixture<T: Copy>(options: Weighted<T>, inner: impl Fn(T) -> Entropy) -> Entropy {
    options.iter().fold(Entropy::default(), |sum, &(weight, option)| {
        let p = f64::from(weight) / f64::from(total(options));
        let Entropy { nats_per_story, characters_per_story } = inner(option);
        sum + Entropy {
            nats_per_story: p * (surprise(weight, options) + nats_per_story),
            characters_per_story: p * characters_per_story,
        }
    })
}

/// −ln of the probability of an option of this weight, in nats.
fn surprise<T>(weight: u32, options: Weighted<T>) -> f64 {
    (f64::from(total(options)) / f64::from(weight)).ln()
}

fn total<T>(options: Weighted<T>) -> u32 {
    options.iter().map(|(weight, _)| weight).sum()
}
