//! What several ranks agree on, so that all go on or end alike.

use super::Run;
use crate::error::{Error, Result};
use crate::train::objective::Evaluation;
use crate::train::record::Record;

impl Run {
    /// Why nothing may be concluded from the model, on one rank or more.
    pub(super) fn broken(&self, last: Option<&Record>) -> Option<String> {
        let own = last.filter(|last| !last.loss.is_finite());
        let own = own.map(|broken| format!("the loss of step {} is {}", broken.step, broken.loss));
        let ranks = self.trainer.ranks();
        match own {
            None if ranks.sum(vec![0.0])[0] > 0.0 => Some("another rank's loss is not finite".into()),
            None => None,
            Some(why) => {
                ranks.sum(vec![1.0]);
                Some(why)
            }
        }
    }

    /// The measures of the validation data, which the first rank takes for all.
    pub(super) fn evaluate(&mut self) -> Result<Option<Evaluation>> {
        let own = if self.trainer.ranks().is_first() { self.trainer.evaluate()? } else { None };
        if !self.trainer.ranks().are_several() {
            return Ok(own);
        }
        let told = own.as_ref().map(|evaluation| (evaluation.loss.to_bits(), evaluation.value.map(f64::to_bits)));
        let told = self.trainer.ranks().broadcast(0, serde_json::to_vec(&told).expect("numbers serialise"));
        let told: Option<(u64, Option<u64>)> = serde_json::from_slice(&told)
            .map_err(|_| Error::Training("the ranks have lost count of each other: go on with --resume".into()))?;
        Ok(own.or(told.map(|(loss, value)| Evaluation {
            loss: f64::from_bits(loss),
            value: value.map(f64::from_bits),
            scalars: vec![],
            text: String::new(),
        })))
    }
}
