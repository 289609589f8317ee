//! Everything that knows of wgpu: finding an adapter, opening a device, compiling pipelines, replaying plans.

pub mod adapter;
pub mod ceilings;
#[cfg(feature = "compiled")]
pub mod compiled;
mod cooperative;
pub mod device;
pub mod executor;
pub mod margins;
mod pipeline_cache;
pub mod pipelines;
pub mod profiler;
pub mod reload;
mod submits;
pub mod tuning;

pub use adapter::{Adapter, adapters, choose};
pub use executor::Gpu;
