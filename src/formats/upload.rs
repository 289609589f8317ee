//! From a model's files to a device.

use super::folder::Weights;
use crate::error::Result;
use crate::executor::Executor;
use crate::models::network::Network;

/// Writes every parameter of a network to the device's store, in the order of the files and in pieces of a few megabytes, so that the
/// host holds neither a converted nor a mapped copy of the model. Programs that hold the parameters must be loaded.
pub fn upload(executor: &mut dyn Executor, network: &Network, weights: &Weights) -> Result<()> {
    for name in weights.names() {
        let (parameter, start) = weights.target(name);
        let parameter = format!("{}{parameter}", network.prefix());
        weights.read_pieces(name, |at, values| executor.write_state_at(&parameter, start + at, values))?;
    }
    Ok(())
}
