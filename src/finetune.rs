//! Fine-tuning: a pre-trained model with a small head on labelled tasks, as "Improving Language Understanding by Generative
//! Pre-Training" (Radford et al. 2018, section 3.2 and 3.3) does it.

pub mod batches;
pub mod folder;
pub mod head;
pub mod metrics;
pub mod predict;
pub mod prepare;
pub mod run;
pub mod scorer;
pub mod sequences;
pub mod settings;
pub mod task;
pub mod trainer;
