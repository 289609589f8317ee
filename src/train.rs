//! Training, whatever the objective: the step's graph, the trainer, runs, settings, checkpoints, sinks of records.

pub mod blueprint;
pub mod checkpoint;
pub mod clock;
pub mod comparison;
pub mod exchange;
pub mod forecast;
pub mod graph;
pub mod groups;
pub mod memory;
pub mod objective;
pub mod rates;
pub mod record;
pub mod run;
pub mod schedule;
pub mod settings;
pub mod sinks;
pub mod trainer;
