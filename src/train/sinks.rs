//! Where a run's records go: the log, the curve, the console. Each is a [`Sink`] of the same records.

pub mod console;
pub mod frontier;
mod lines;
pub mod log;
pub mod plot;
pub mod samples;
pub mod tensorboard;

use super::checkpoint::RunFolder;
use super::record::Record;
use crate::error::Result;

/// A place that records and sentences of a run go to.
pub trait Sink {
    /// Takes the record of a step, in the order of the steps.
    fn record(&mut self, record: &Record) -> Result<()>;

    /// Takes a sentence for people: an evaluation, a sample, a warning.
    fn note(&mut self, _text: &str) {}

    /// Takes a text that the model has drawn after a step.
    fn sample(&mut self, _step: u64, _text: &str) -> Result<()> {
        Ok(())
    }

    /// A checkpoint is about to be saved: records that were taken must not be lost.
    fn sync(&mut self) -> Result<()> {
        Ok(())
    }

    /// A checkpoint was saved.
    fn saved(&mut self) -> Result<()> {
        Ok(())
    }

    /// The run's folder has another place.
    fn moved(&mut self, _folder: &RunFolder) {}

    /// The run goes on after `step`: records of later steps are forgotten.
    fn resume(&mut self, _step: u64) -> Result<()> {
        Ok(())
    }
}
