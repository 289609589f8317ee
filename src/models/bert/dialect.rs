//! BERT's kin, whose arithmetic is BERT's: RoBERTa (Liu et al. 2019) and DistilBERT (Sanh et al. 2019). Their folders are read, and
//! written as BERT's.
//!
//! - RoBERTa counts positions from behind that of padding, has one token type, and its classifier's first layer is a pooler.
//! - DistilBERT has no token types, which is one type of zeros here, and no pooler. Its classifier has a rectifier, which is another arithmetic.

use std::borrow::Cow;

/// Whose names and positions a folder has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Bert,
    /// The row of the position table that the first token has.
    Roberta {
        first_position: usize,
    },
    DistilBert,
}

/// Names of modules there and here, of which the first that a name starts with counts.
const ROBERTA: [(&str, &str); 5] = [
    ("lm_head.dense.", "cls.predictions.transform.dense."),
    ("lm_head.layer_norm.", "cls.predictions.transform.LayerNorm."),
    ("lm_head.", "cls.predictions."),
    ("classifier.dense.", "pooler.dense."),
    ("classifier.out_proj.", "classifier."),
];
const DISTILBERT: [(&str, &str); 4] = [
    ("vocab_transform.", "cls.predictions.transform.dense."),
    ("vocab_layer_norm.", "cls.predictions.transform.LayerNorm."),
    ("vocab_projector.bias", "cls.predictions.bias"),
    ("vocab_projector.weight", "cls.predictions.decoder.weight"),
];
/// As above, of what follows the number of a layer of DistilBERT.
const LAYER: [(&str, &str); 8] = [
    ("attention.q_lin.", "attention.self.query."),
    ("attention.k_lin.", "attention.self.key."),
    ("attention.v_lin.", "attention.self.value."),
    ("attention.out_lin.", "attention.output.dense."),
    ("sa_layer_norm.", "attention.output.LayerNorm."),
    ("ffn.lin1.", "intermediate.dense."),
    ("ffn.lin2.", "output.dense."),
    ("output_layer_norm.", "output.LayerNorm."),
];

impl Dialect {
    /// BERT's name of a tensor.
    pub fn renamed<'a>(&self, name: &'a str) -> Cow<'a, str> {
        match self {
            Dialect::Bert => name.into(),
            Dialect::Roberta { .. } => by(&ROBERTA, name.strip_prefix("roberta.").unwrap_or(name)),
            Dialect::DistilBert => {
                let name = name.strip_prefix("distilbert.").unwrap_or(name);
                let layer = name.strip_prefix("transformer.layer.").and_then(|rest| rest.split_once('.'));
                match layer {
                    Some((layer, rest)) => format!("encoder.layer.{layer}.{}", by(&LAYER, rest)).into(),
                    None => by(&DISTILBERT, name),
                }
            }
        }
    }

    /// Rows of the position table in files before that of the first token.
    pub fn first_position(&self) -> usize {
        if let Dialect::Roberta { first_position } = self { *first_position } else { 0 }
    }
}

fn by<'a>(names: &[(&str, &str)], name: &'a str) -> Cow<'a, str> {
    let found = names.iter().find_map(|(theirs, ours)| Some(format!("{ours}{}", name.strip_prefix(theirs)?)));
    found.map_or(name.into(), Cow::from)
}
