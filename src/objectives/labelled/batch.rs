//! Examples as batches of one length: padding stands at the right, where causal attention never sees it and an encoder's lengths
//! leave it out, and has no target. So a batch has the scores of its examples one by one.

use super::head::Head;
use crate::data::labelled::target::{Answer, Target};
use crate::ops::IGNORED;
use crate::train::objective::Batch;

/// Inputs with the rows of the hidden states at the last tokens, one for each order of a pair.
pub const POSITIONS: [&str; 2] = ["positions.0", "positions.1"];

/// An example that is ready to be fed.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Its sequences: as many for every example of a task.
    pub ids: Vec<Vec<u32>>,
    /// The right answer, where it is known.
    pub answer: Option<Answer>,
    /// How much it counts: its class's weight.
    pub weight: f32,
}

impl Item {
    /// Tokens of its longest sequence.
    pub fn length(&self) -> usize {
        self.ids.iter().map(Vec::len).max().unwrap_or(0)
    }
}

/// Inputs of a program. Rows of a missing example are padding and weigh nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelledBatch {
    /// (examples * sequences, length).
    pub ids: Vec<u32>,
    /// As `ids`: the token that follows, [`IGNORED`] where none does.
    pub targets: Vec<u32>,
    /// Of an encoder: the type of each token, and the tokens of each sequence.
    pub types: Option<Vec<u32>>,
    pub lengths: Option<Vec<u32>>,
    /// Rows of the hidden states at the sequences' last tokens, or an encoder's first: all in one list, or one for each order of a pair.
    pub positions: Vec<Vec<u32>>,
    /// Right answers; 0 where there is none.
    pub classes: Vec<u32>,
    pub grades: Vec<f32>,
    /// 0 for examples that are missing or have no answer.
    pub weights: Vec<f32>,
}

impl LabelledBatch {
    /// A batch of a head's size, of which the examples given are there, padded to `length`.
    pub fn new(head: &Head, examples: &[&Item], length: usize) -> Self {
        let (size, sequences) = (head.batch, head.sequences());
        let rows = size * sequences;
        let mut batch = LabelledBatch {
            ids: vec![0; rows * length],
            targets: vec![IGNORED; rows * length],
            types: head.encoder.filter(|encoder| encoder.types).map(|_| vec![0; rows * length]),
            lengths: head.encoder.map(|_| vec![0; rows]),
            positions: vec![vec![IGNORED; rows]],
            classes: vec![0; size],
            grades: vec![0.0; size],
            weights: vec![0.0; size],
        };
        for (n, example) in examples.iter().enumerate() {
            for (k, ids) in example.ids.iter().enumerate() {
                let row = n * sequences + k;
                let first = row * length;
                batch.ids[first..first + ids.len()].copy_from_slice(ids);
                batch.targets[first..first + ids.len() - 1].copy_from_slice(&ids[1..]);
                batch.positions[0][row] = (first + ids.len() - 1) as u32;
                if let (Some(encoder), Some(lengths)) = (head.encoder, &mut batch.lengths) {
                    (lengths[row], batch.positions[0][row]) = (ids.len() as u32, first as u32);
                    let end = ids.iter().position(|id| *id == encoder.separator).map_or(ids.len(), |end| end + 1);
                    if let Some(types) = &mut batch.types {
                        types[first + end..first + ids.len()].fill(1);
                    }
                }
            }
            match example.answer {
                Some(Answer::Class(class)) => batch.classes[n] = class as u32,
                Some(Answer::Grade(grade)) => batch.grades[n] = grade,
                None => continue,
            }
            batch.weights[n] = example.weight;
        }
        if head.has_orders() {
            let all = &batch.positions[0];
            batch.positions = (0..2).map(|order| all.iter().skip(order).step_by(2).copied().collect()).collect();
        }
        batch
    }

    /// Sets the inputs that scores are made from.
    pub fn set_inputs(&self, batch: &mut Batch) {
        batch.set("ids", &self.ids);
        self.types.iter().for_each(|types| batch.set("types", types));
        self.lengths.iter().for_each(|lengths| batch.set("lengths", lengths));
        self.positions.iter().zip(POSITIONS).for_each(|(positions, name)| batch.set(name, positions));
    }

    /// Sets the inputs that the head's loss is made from.
    pub fn set_answers(&self, batch: &mut Batch, target: &Target) {
        batch.set_f32("weights", &self.weights);
        match target {
            Target::Grade => batch.set_f32("grades", &self.grades),
            _ => batch.set("classes", &self.classes),
        }
    }
}
