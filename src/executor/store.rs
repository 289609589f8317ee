//! The store of named states, which all loaded plans share: which buffer holds each, and where. A buffer is what an executor
//! makes of one.

use crate::error::Result;
use crate::graph::Plan;
use crate::graph::plan::{Buffer, State};
use std::collections::HashMap;
use std::ops::Range;

pub struct Store<B> {
    buffers: Vec<B>,
    /// Buffer and bytes of each state.
    places: HashMap<String, (usize, Range<u64>)>,
}

impl<B> Default for Store<B> {
    fn default() -> Self {
        Store { buffers: vec![], places: HashMap::new() }
    }
}

impl<B> Store<B> {
    /// Where the store holds buffer `index` of a plan, a buffer of states: the buffer, and the byte at which the plan's
    /// begins in it. One that a plan stores by itself may lie among others in the store; what a plan stores together must be
    /// so in the store, or not be there yet: then `make` allocates it.
    pub fn hold(&mut self, plan: &Plan, index: usize, make: impl FnOnce(&Buffer) -> Result<B>) -> Result<(usize, u64)> {
        let states: Vec<&State> = plan.states.iter().filter(|s| s.buffer == index).collect();
        let bytes = |s: &State, first: u64| first + s.start_byte..first + s.start_byte + s.shape.size_bytes();
        let known = states.iter().find_map(|s| Some((s, self.places.get(&s.name)?)));
        let Some((state, (buffer, range))) = known else {
            self.buffers.push(make(&plan.buffers[index])?);
            let buffer = self.buffers.len() - 1;
            self.places.extend(states.iter().map(|s| (s.name.clone(), (buffer, bytes(s, 0)))));
            return Ok((buffer, 0));
        };
        let is_held =
            |first: &u64| states.iter().all(|s| self.places.get(&s.name) == Some(&(*buffer, bytes(s, *first))));
        let first = range.start.checked_sub(state.start_byte).filter(is_held);
        let otherwise =
            || panic!("`{}` is stored otherwise already: load plans that store it with others first", state.name);
        Ok((*buffer, first.unwrap_or_else(otherwise)))
    }

    /// The buffer of a state, and its bytes there.
    #[track_caller]
    pub fn state(&self, name: &str) -> (&B, Range<u64>) {
        let (buffer, range) = self.places.get(name).unwrap_or_else(|| panic!("`{name}` is no state of a loaded plan"));
        (&self.buffers[*buffer], range.clone())
    }

    pub fn buffer(&self, buffer: usize) -> &B {
        &self.buffers[buffer]
    }

    /// Number of buffers.
    pub fn len(&self) -> usize {
        self.buffers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.buffers.is_empty()
    }
}

impl Store<Vec<f32>> {
    /// The values of a state.
    #[track_caller]
    pub fn values(&self, name: &str) -> &[f32] {
        let (buffer, range) = self.state(name);
        &buffer[words(&range)]
    }

    #[track_caller]
    pub fn values_mut(&mut self, name: &str) -> &mut [f32] {
        let (_, range) = self.state(name);
        let buffer = self.places[name].0;
        &mut self.buffers[buffer][words(&range)]
    }
}

fn words(bytes: &Range<u64>) -> Range<usize> {
    (bytes.start / 4) as usize..(bytes.end / 4) as usize
}
