//! Single passages of stories, told with words that are chosen beforehand: the material of the labelled tasks.

use std::collections::BTreeSet;
use std::ops::Range;

use rand_pcg::Pcg64;

use super::grammar::{Grammar, Piece, draw};

/// A row for every table of a grammar: the persons and things of a passage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cast(Vec<usize>);

impl Cast {
    /// The row of a table.
    pub fn row(&self, table: usize) -> usize {
        self.0[table]
    }

    /// The same with another row of a table.
    pub fn with(mut self, table: usize, row: usize) -> Self {
        self.0[table] = row;
        self
    }
}

impl Grammar {
    /// Draws a row for every table.
    pub fn cast(&self, random: &mut Pcg64) -> Cast {
        Cast(self.tables.iter().map(|table| draw(table.rows, random)).collect())
    }

    /// One of the table's rows, by its weight.
    pub fn row(&self, table: usize, random: &mut Pcg64) -> usize {
        draw(self.tables[table].rows, random)
    }

    /// The number of a table's rows.
    pub fn rows(&self, table: usize) -> usize {
        self.tables[table].rows.len()
    }

    /// The table that a mark is a column of.
    ///
    /// # Panics
    ///
    /// If there is none, which is an error in the caller's marks.
    pub fn table(&self, mark: &str) -> usize {
        self.mark(mark).table
    }

    /// The table and the column of a mark.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn column(&self, mark: &str) -> (usize, usize) {
        let mark = self.mark(mark);
        (mark.table, mark.column)
    }

    /// The wordings one after the other, a space between them, with the cast's words for their marks.
    pub fn say(&self, wordings: &[&'static str], cast: &Cast) -> String {
        self.tell(wordings, cast).text
    }

    /// As [`Grammar::say`], with the places of the cast's words.
    pub fn tell(&self, wordings: &[&'static str], cast: &Cast) -> Told {
        let mut told = Told::default();
        for (at, wording) in wordings.iter().enumerate() {
            if at > 0 {
                told.text.push(' ');
            }
            for piece in self.pieces(wording) {
                match piece {
                    Piece::Plain(plain) => told.text.push_str(plain),
                    Piece::Mark(mark) => {
                        let word = mark.word(self.tables[mark.table].rows[cast.row(mark.table)].1);
                        told.marks.push((told.text.len()..told.text.len() + word.len(), (mark.table, mark.column)));
                        told.text.push_str(&word);
                    }
                }
            }
        }
        told
    }

    /// The marks of the wordings, as (table, column).
    pub fn marks(&self, wordings: &[&'static str]) -> BTreeSet<(usize, usize)> {
        let pieces = wordings.iter().flat_map(|wording| self.pieces(wording));
        let mark = |piece| if let Piece::Mark(mark) = piece { Some((mark.table, mark.column)) } else { None };
        pieces.filter_map(mark).collect()
    }
}

/// Passages that are told, and where the words of marks stand in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    pub text: String,
    marks: Vec<(Range<usize>, (usize, usize))>,
}

impl Told {
    /// The bytes of the words that the text has for a mark, by its table and column, in their order.
    pub fn places(&self, column: (usize, usize)) -> impl Iterator<Item = Range<usize>> {
        self.marks.iter().filter(move |(_, of)| *of == column).map(|(range, _)| range.clone())
    }
}

impl Grammar {
    /// The wordings of a story from its first scene to its last.
    pub fn plot(&self, random: &mut Pcg64) -> Vec<&'static str> {
        let (mut wordings, mut scenes) = (vec![], self.start);
        while !scenes.is_empty() {
            let scene = scenes[draw(scenes, random)].1;
            wordings.push(scene.wordings[draw(scene.wordings, random)].1);
            scenes = scene.next;
        }
        wordings
    }
}
