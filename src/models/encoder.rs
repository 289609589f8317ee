//! What makes a model an encoder, in which every token sees all others.

use super::bert::dialect::Dialect;
use super::config::Config;
use crate::error::Result;
use crate::fail;

/// What an encoder has beside its blocks (Devlin et al. 2019).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encoder {
    /// Rows of the table of token types, which tell the texts of a pair apart; 1 where nothing does.
    pub token_types: usize,
    pub heads: Heads,
    /// Whose names its files have; those that are written have BERT's.
    pub dialect: Dialect,
}

/// The heads that are a part of an encoder, as the classes of `transformers` have them; heads of tasks are files' own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heads {
    /// None: `BertForTokenClassification`, `BertForQuestionAnswering`.
    None,
    /// tanh(W h + b) of the first token: `BertModel`, `BertForSequenceClassification`, `BertForMultipleChoice`.
    Pooler,
    /// The prediction of masked tokens: `BertForMaskedLM`.
    Masked,
    /// Both, and the prediction from the pooler whether the second text follows the first: `BertForPreTraining`.
    Pretraining,
}

impl Heads {
    /// Whether there is a pooler.
    pub fn pools(self) -> bool {
        matches!(self, Heads::Pooler | Heads::Pretraining)
    }

    /// Whether masked tokens are predicted.
    pub fn predicts(self) -> bool {
        matches!(self, Heads::Masked | Heads::Pretraining)
    }

    /// Those that both have.
    pub fn shared(self, other: Heads) -> Heads {
        match (self.pools() && other.pools(), self.predicts() && other.predicts()) {
            (true, true) => Heads::Pretraining,
            (true, false) => Heads::Pooler,
            (false, true) => Heads::Masked,
            (false, false) => Heads::None,
        }
    }
}

impl Config {
    /// Refuses an encoder, and an encoder and decoder, where a text is to be continued, as a usage error; `what` says what it cannot do.
    pub fn must_decode(&self, what: &str) -> Result<()> {
        self.must_be_one_stack(what)?;
        self.must_write(what)
    }

    /// Refuses an encoder and decoder, as a usage error; `what` says what it cannot do.
    pub fn must_be_one_stack(&self, what: &str) -> Result<()> {
        if self.encoder_decoder.is_some() {
            fail!(
                Usage,
                "a {} reads one text and writes another: it cannot {what}; give a GPT, GPT-2, LLaMA or BERT that can",
                self.family
            );
        }
        Ok(())
    }

    /// Refuses an encoder where a text is to be written, as a usage error; `what` says what it cannot do.
    pub fn must_write(&self, what: &str) -> Result<()> {
        if self.encoder.is_some() {
            fail!(
                Usage,
                "a {} is an encoder, in which tokens see those after them: it cannot {what}; give a GPT, GPT-2 or LLaMA",
                self.family
            );
        }
        Ok(())
    }

    /// The heads that are a part of it, where it is an encoder.
    pub fn heads_of_encoder(&self) -> Heads {
        self.encoder.map_or(Heads::None, |encoder| encoder.heads)
    }

    /// This encoder with other heads.
    pub fn with_heads(self, heads: Heads) -> Self {
        Config { encoder: self.encoder.map(|encoder| Encoder { heads, ..encoder }), ..self }
    }
}
