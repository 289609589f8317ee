//! `wgpt eval --ids`: the logits of given token ids.

use super::super::Global;
use std::path::Path;
use wgpt::error::{Error, Result};
use wgpt::fail;
use wgpt::files::write_atomic;
use wgpt::formats::folder::{Weights, write_tensors_to};
use wgpt::formats::upload::upload;
use wgpt::graph::{Graph, Plan, Shape, Step};
use wgpt::models::config::Config;
use wgpt::models::network::Network;

/// Writes logits (B, T, V) of the ids in a file.
pub fn dump(global: &Global, config: &Config, weights: &Weights, path: &Path, out: &Path) -> Result<()> {
    let ids = read_ids(path, config)?;
    let (batch, time) = (ids.len(), ids[0].len());
    let mut executor = global.open()?;
    let mut g = Graph::new();
    let input = g.input("ids", Shape::u32(&[batch, time]));
    let network = Network::new(config.clone());
    let logits = network.inference().logits(&mut g, input);
    g.output("logits", logits);
    let plan = Plan::new(&g, executor.limits())?;
    let program = executor.load(&g, plan)?;
    upload(executor.as_mut(), &network, weights)?;
    executor.write(program, "ids", bytemuck::cast_slice(&ids.concat()))?;
    executor.run(program, 0, &Step::default())?;
    let values = executor.read(program, "logits")?;
    if values.iter().any(|logit| !logit.is_finite()) {
        fail!(Input, "the model's logits are not finite: it has diverged, or its weights are damaged");
    }
    let dump = [("logits".into(), vec![batch, time, config.vocab_size], values.as_slice())];
    write_atomic(out, |file| write_tensors_to(file, &dump, &[]))
}

fn read_ids(path: &Path, config: &Config) -> Result<Vec<Vec<u32>>> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let Ok(ids) = serde_json::from_str::<Vec<Vec<u32>>>(&text) else {
        fail!(Input, "{} is not a JSON list of lists of token ids, such as [[1, 2], [3, 4]]", path.display());
    };
    let length = ids.first().map_or(0, Vec::len);
    if length == 0 || length > config.context || ids.iter().any(|row| row.len() != length) {
        let context = config.context;
        fail!(Input, "{}: every sequence must have the same length, from 1 to the model's {context}", path.display());
    }
    if let Some(id) = ids.iter().flatten().find(|id| **id as usize >= config.vocab_size) {
        fail!(Input, "{}: token id {id} is beyond the model's vocabulary of {}", path.display(), config.vocab_size);
    }
    Ok(ids)
}
