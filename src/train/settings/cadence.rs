//! How often something is done in a run, as a flag and as a key of a file.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How often something is done; it is always done after the last step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "CadenceText", into = "CadenceText")]
pub enum Cadence {
    /// After every so many steps; 0 for only the last.
    Steps(u64),
    /// After each pass over the training data.
    Epoch,
}

/// A [`Cadence`] in a file: a number, or `epoch`.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum CadenceText {
    Steps(u64),
    Text(String),
}

impl FromStr for Cadence {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Cadence, String> {
        match text {
            "epoch" => Ok(Cadence::Epoch),
            _ => text.parse().map(Cadence::Steps).map_err(|_| "give a number of steps, or epoch".into()),
        }
    }
}

impl fmt::Display for Cadence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cadence::Steps(steps) => write!(f, "{steps}"),
            Cadence::Epoch => f.write_str("epoch"),
        }
    }
}

impl TryFrom<CadenceText> for Cadence {
    type Error = String;

    fn try_from(text: CadenceText) -> std::result::Result<Cadence, String> {
        match text {
            CadenceText::Steps(steps) => Ok(Cadence::Steps(steps)),
            CadenceText::Text(text) => text.parse(),
        }
    }
}

impl From<Cadence> for CadenceText {
    fn from(cadence: Cadence) -> CadenceText {
        match cadence {
            Cadence::Steps(steps) => CadenceText::Steps(steps),
            Cadence::Epoch => CadenceText::Text("epoch".into()),
        }
    }
}
