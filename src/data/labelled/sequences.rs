//! An example's texts as token sequences (Radford et al. 2018, section 3.3):
//!
//! - classify: start text extract
//! - entail: start premise delimiter hypothesis extract
//! - similar: start first delimiter second extract, and start second delimiter first extract
//! - choose: start context question delimiter choice extract, for each choice
//!
//! An encoder (Devlin et al. 2019) sees a pair in one order only; its start, delimiter and extract are [CLS], [SEP] and [SEP].
//!
//! Texts that are too long are cut: at the end, the longer one of two first; a context at its beginning, because the question
//! follows its end. Questions and choices are never cut.

use super::{Example, Task};
use crate::data::tokenizer::Tokenizer;
use crate::error::Result;
use crate::fail;
use serde::{Deserialize, Serialize};

/// Ids of the tokens that fine-tuning adds to a decoder's vocabulary, which no text can spell, or those that an encoder has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Special {
    pub start: u32,
    pub delimiter: u32,
    pub extract: u32,
}

impl Special {
    /// How many there are.
    pub const COUNT: usize = 3;

    /// The ids after those of a vocabulary.
    pub fn after(vocabulary_size: usize) -> Self {
        let start = vocabulary_size as u32;
        Special { start, delimiter: start + 1, extract: start + 2 }
    }
}

/// The sequences of one example.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequences {
    /// One, two for similarity, or one for each choice.
    pub ids: Vec<Vec<u32>>,
    /// Whether a text was cut.
    pub cut: bool,
}

/// Puts two texts and the tokens around them into a sequence.
type Pair<'a> = dyn Fn(&[u32], &[u32]) -> Vec<u32> + 'a;

/// Turns texts into sequences of at most `longest` tokens.
pub struct Encoder<'a> {
    pub tokenizer: &'a Tokenizer,
    pub task: Task,
    /// None: a text gets what its tokenizer puts around every text, as for models that `transformers` classifies with.
    pub special: Option<Special>,
    pub longest: usize,
    /// A token that does not count at the end of a text, where the tokenizer says what stands around one.
    pub pad: Option<u32>,
    /// Whether the sequences are an encoder's, which sees both texts of a pair at once.
    pub is_encoder: bool,
}

impl Encoder<'_> {
    /// The sequences of an example; errors name the text that does not fit.
    pub fn encode(&self, example: &Example) -> Result<Sequences> {
        let tokens = |text: &str| self.tokenizer.encode(text);
        let Some(special) = self.special else {
            if self.task == Task::Choose {
                let frame = self.tokenizer.frame(true)?;
                return self.choices(example, frame.len(), &|context, choice| frame.fill(&[context, choice]).ids);
            }
            let (mut text, cut) = if example.rendered {
                let mut ids = tokens(&example.texts[0])?;
                let cut = keep_beginning(&mut ids, self.longest);
                (ids, cut)
            } else {
                self.tokenizer.encode_within(&example.texts[0], self.longest)?
            };
            let counted = text.iter().rposition(|id| Some(*id) != self.pad).map_or(1, |last| last + 1);
            text.truncate(counted);
            if text.is_empty() {
                fail!(Input, "the text has no tokens: the tokenizer leaves nothing of it");
            }
            return Ok(Sequences { ids: vec![text], cut });
        };
        let (start, delimiter, extract) = (&[special.start][..], &[special.delimiter][..], &[special.extract][..]);
        let pair = |a: &[u32], b: &[u32]| [start, a, delimiter, b, extract].concat();
        if self.task == Task::Choose {
            return self.choices(example, Special::COUNT, &pair);
        }
        let mut texts = example.texts.iter().map(|text| tokens(text)).collect::<Result<Vec<_>>>()?;
        let (ids, cut) = match (self.task, &mut texts[..]) {
            (Task::Classify, [text]) => {
                let cut = keep_beginning(text, self.room(2)?);
                (vec![[start, text, extract].concat()], cut)
            }
            (Task::Entail, [premise, hypothesis]) => {
                let cut = keep_pair(premise, hypothesis, self.room(3)?);
                (vec![pair(premise, hypothesis)], cut)
            }
            (Task::Similar, [first, second]) => {
                let cut = keep_pair(first, second, self.room(3)?);
                let orders = if self.is_encoder { 1 } else { 2 };
                ([pair(first, second), pair(second, first)].into_iter().take(orders).collect(), cut)
            }
            (task, texts) => panic!("{} has other texts than these {}", task.name(), texts.len()),
        };
        Ok(Sequences { ids, cut })
    }

    /// A sequence for each choice, behind the context and the question; `pair` puts so many tokens around them.
    fn choices(&self, example: &Example, around: usize, pair: &Pair) -> Result<Sequences> {
        let tokens = |text: &str| self.tokenizer.encode(text);
        let mut context = tokens(&example.texts[0])?;
        let question = example.texts.get(1).map_or(Ok(vec![]), |question| tokens(&format!(" {question}")))?;
        let choices = example.choices.iter().map(|choice| tokens(choice)).collect::<Result<Vec<_>>>()?;
        let asked = question.len() + choices.iter().map(Vec::len).max().unwrap_or(0);
        let room = self.room(around)?;
        if asked > room {
            fail!(
                Input,
                "the question and the longest choice have {asked} tokens, and there is room for {room}: shorten \
                 them, or use a model with a longer context"
            );
        }
        let cut = keep_end(&mut context, room - asked);
        let asked = [&context[..], &question].concat();
        Ok(Sequences { ids: choices.iter().map(|choice| pair(&asked, choice)).collect(), cut })
    }

    /// Tokens that are left beside so many special ones.
    fn room(&self, special: usize) -> Result<usize> {
        if self.longest < special + 2 {
            fail!(Usage, "sequences of {} tokens leave no room for a text: allow longer ones", self.longest);
        }
        Ok(self.longest - special)
    }
}

fn keep_beginning(ids: &mut Vec<u32>, room: usize) -> bool {
    let cut = ids.len() > room;
    ids.truncate(room);
    cut
}

fn keep_end(ids: &mut Vec<u32>, room: usize) -> bool {
    let over = ids.len().saturating_sub(room);
    ids.drain(..over);
    over > 0
}

/// Cuts the longer one first; both to halves where both are longer than half.
fn keep_pair(a: &mut Vec<u32>, b: &mut Vec<u32>, room: usize) -> bool {
    let half = room / 2;
    let keep_a = if b.len() <= half { room - b.len() } else { room - half };
    let keep_b = room - keep_a.min(a.len());
    keep_beginning(a, keep_a) | keep_beginning(b, keep_b)
}
