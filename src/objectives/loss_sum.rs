//! The mean loss of validation data, which the device adds up.

use crate::error::Result;
use crate::graph::{Graph, Tensor};
use crate::ops::add::AddInPlace;
use crate::train::objective::{Batch, Evaluation, EvaluationPrograms};

/// State: the sum of the losses of the validation batches so far.
const LOSS_SUM: &str = "evaluation.loss_sum";

/// Adds a validation batch's loss to the sum.
pub(super) fn add_loss(g: &mut Graph, loss: Tensor) {
    let sum = g.state(LOSS_SUM, &[1]);
    g.apply(AddInPlace, &[sum, loss]);
}

/// Begins a sum.
pub(super) fn begin_sum(programs: &mut EvaluationPrograms) -> Result<()> {
    programs.executor.write_state(LOSS_SUM, &[0.0])
}

/// Waits for the sum of the losses since it was begun.
pub(super) fn sum(programs: &mut EvaluationPrograms) -> Result<f64> {
    Ok(f64::from(programs.executor.read_state(LOSS_SUM)?[0]))
}

/// The mean over as many validation batches as a run has, whose inputs `set` fills by their numbers.
pub(super) fn mean_loss(
    programs: &mut EvaluationPrograms,
    set: &mut dyn FnMut(u64, &mut Batch) -> Result<()>,
) -> Result<Option<Evaluation>> {
    let count = programs.settings.eval_batches;
    let mut batch = Batch::new(programs.settings.batch, programs.settings.seed);
    begin_sum(programs)?;
    for number in 0..count {
        batch.clear();
        set(number, &mut batch)?;
        programs.run(&batch)?;
    }
    let loss = sum(programs)? / count as f64;
    Ok(Some(Evaluation { loss, value: Some(-loss), scalars: vec![], text: String::new() }))
}
