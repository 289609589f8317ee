//! From a model's files to a device.

use half::f16;
use std::collections::HashMap;

use super::folder::Weights;
use crate::error::Result;
use crate::executor::Executor;
use crate::fail;
use crate::graph::QuantisedAs;
use crate::graph::quantisation::{BLOCK, Quantised, scales_name};
use crate::models::network::Network;

/// Writes every parameter of a network to the device's store, in the order of the files and in pieces of a few megabytes, so that the
/// host holds neither a converted nor a mapped copy of the model. A matrix that is quantised on the way is held as a whole. Programs
/// that hold the parameters must be loaded.
pub fn upload(executor: &mut dyn Executor, network: &Network, weights: &Weights) -> Result<()> {
    let quantised: HashMap<&str, QuantisedAs> =
        network.parameters().iter().filter_map(|p| Some((p.name.as_str(), p.quantised?))).collect();
    for name in weights.names() {
        let (parameter, start) = weights.target(name);
        let parameter = format!("{}{parameter}", network.prefix());
        match quantised.get(parameter.as_str()) {
            None => weights.read_pieces(name, |at, values| executor.write_state_at(&parameter, start + at, values))?,
            Some(quantised) => {
                let values = weights.read(name)?;
                if let Some(value) = values.iter().find(|value| value.abs() > f16::MAX.to_f32()) {
                    fail!(Input, "{name} has the value {value}, which no quantisation holds: leave out --base");
                }
                let Quantised { words, scales } = quantised.quantise(&values, weights.shape(name)?);
                executor.write_state_at(
                    &parameter,
                    start / quantised.quantisation.per_word(),
                    bytemuck::cast_slice(&words),
                )?;
                if !scales.is_empty() {
                    let scale = start / (2 * BLOCK);
                    executor.write_state_at(&scales_name(&parameter), scale, bytemuck::cast_slice(&scales))?;
                }
            }
        }
    }
    Ok(())
}
