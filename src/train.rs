//! Training: the loop, its schedule, checkpoints, log and plot.

pub mod checkpoint;
pub mod clock;
pub mod graph;
mod groups;
pub mod log;
pub mod memory;
pub mod plot;
pub mod schedule;
pub mod settings;
pub mod trainer;
