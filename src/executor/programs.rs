//! A program for each shape, loaded when it is first needed.

use super::{Executor, Program, tuned_plan};
use crate::error::Result;
use crate::graph::Graph;

/// Programs by a key of their shapes.
#[derive(Debug)]
pub struct Programs<K> {
    loaded: Vec<(K, Program)>,
}

impl<K> Default for Programs<K> {
    fn default() -> Self {
        Programs { loaded: vec![] }
    }
}

impl<K: PartialEq> Programs<K> {
    /// The program of `key`; the graph that `build` makes is tuned, planned and loaded the first time.
    pub fn get(&mut self, executor: &mut dyn Executor, key: K, build: impl FnOnce() -> Graph) -> Result<Program> {
        if let Some((_, program)) = self.loaded.iter().find(|(known, _)| *known == key) {
            return Ok(*program);
        }
        let graph = build();
        let plan = tuned_plan(executor, &graph)?;
        let program = executor.load(&graph, plan)?;
        self.loaded.push((key, program));
        Ok(program)
    }

    pub fn is_empty(&self) -> bool {
        self.loaded.is_empty()
    }

    /// Frees the programs' own buffers.
    pub fn unload(&mut self, executor: &mut dyn Executor) {
        self.loaded.drain(..).for_each(|(_, program)| executor.unload(program));
    }
}
