//! Single passages of stories, told with words that are chosen beforehand: the material of the labelled tasks.

use std::collections::BTreeSet;

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

    /// The wordings one after the other, a space between them, with the cast's words for their marks.
    pub fn say(&self, wordings: &[&'static str], cast: &Cast) -> String {
        let one = |wording: &&'static str| -> String {
            let words = self.pieces(wording).map(|piece| match piece {
                Piece::Plain(plain) => plain.to_owned(),
                Piece::Mark(mark) => mark.word(self.tables[mark.table].rows[cast.row(mark.table)].1),
            });
            words.collect()
        };
        wordings.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    /// The marks of the wordings, as (table, column).
    pub fn marks(&self, wordings: &[&'static str]) -> BTreeSet<(usize, usize)> {
        let pieces = wordings.iter().flat_map(|wording| self.pieces(wording));
        let mark = |piece| if let Piece::Mark(mark) = piece { Some((mark.table, mark.column)) } else { None };
        pieces.filter_map(mark).collect()
    }
}
