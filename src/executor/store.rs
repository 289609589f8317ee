//! The store of named states, which all loaded plans share: which buffer holds each, and where. The type of a buffer is
//! the executor's own.

use crate::error::Result;
use crate::fail;
use crate::graph::plan::{Buffer, State};
use crate::graph::{NetworkId, Plan};
use std::collections::{HashMap, HashSet};
use std::ops::Range;

pub struct Store<B> {
    /// None where the buffer was freed.
    buffers: Vec<Option<B>>,
    places: HashMap<String, Place>,
}

/// Where a state lies.
struct Place {
    buffer: usize,
    bytes: Range<u64>,
    /// The network that it belongs to, where it belongs to one.
    network: Option<NetworkId>,
}

impl<B> Default for Store<B> {
    fn default() -> Self {
        Store { buffers: vec![], places: HashMap::new() }
    }
}

impl<B> Store<B> {
    /// Where the store holds buffer `index` of a plan, a buffer of states: the buffer, and the byte at which the plan's
    /// begins in it. One that a plan stores by itself may lie among others in the store; states that a plan stores together must
    /// be together in the store, or not be there yet: then `make` allocates them.
    pub fn hold(&mut self, plan: &Plan, index: usize, make: impl FnOnce(&Buffer) -> Result<B>) -> Result<(usize, u64)> {
        let states: Vec<&State> = plan.states.iter().filter(|s| s.buffer == index).collect();
        let bytes = |s: &State, first: u64| first + s.start_byte..first + s.start_byte + s.shape.size_bytes();
        for state in &states {
            let Some(Place { network: Some(owner), .. }) = self.places.get(&state.name) else { continue };
            if state.network.is_some_and(|network| network != *owner) {
                fail!(
                    Usage,
                    "two networks have a state called `{}`: give each network a prefix of its own",
                    state.name
                );
            }
        }
        let known = states.iter().find_map(|s| Some((s, self.places.get(&s.name)?)));
        let Some((state, place)) = known else {
            self.buffers.push(Some(make(&plan.buffers[index])?));
            let buffer = self.buffers.len() - 1;
            let place = |s: &&State| (s.name.clone(), Place { buffer, bytes: bytes(s, 0), network: s.network });
            self.places.extend(states.iter().map(place));
            return Ok((buffer, 0));
        };
        let held = |s: &State, first: u64| {
            self.places.get(&s.name).is_some_and(|p| p.buffer == place.buffer && p.bytes == bytes(s, first))
        };
        let is_held = |first: &u64| states.iter().all(|s| held(s, *first));
        let first = place.bytes.start.checked_sub(state.start_byte).filter(is_held);
        let otherwise =
            || panic!("`{}` is stored otherwise already: load plans that store it with others first", state.name);
        Ok((place.buffer, first.unwrap_or_else(otherwise)))
    }

    /// Forgets states, and drops the buffers in which no other state lies; the dropped ones. Programs that bind them must be
    /// unloaded.
    pub fn free(&mut self, is_freed: impl Fn(&str) -> bool) -> Vec<B> {
        self.places.retain(|name, _| !is_freed(name));
        let used: HashSet<usize> = self.places.values().map(|place| place.buffer).collect();
        let unused = self.buffers.iter_mut().enumerate().filter(|(i, _)| !used.contains(i));
        unused.filter_map(|(_, buffer)| buffer.take()).collect()
    }

    /// Bytes that loading a plan allocates: its own buffers, and those of states that are not held yet.
    pub fn missing_bytes(&self, plan: &Plan) -> u64 {
        let held =
            |i: usize| plan.states.iter().any(|state| state.buffer == i && self.places.contains_key(&state.name));
        let missing = plan.buffers.iter().enumerate().filter(|(i, _)| !held(*i));
        missing.fold(0, |sum: u64, (_, buffer)| sum.saturating_add(buffer.size_bytes))
    }

    /// The buffer of a state, and its bytes there.
    #[track_caller]
    pub fn state(&self, name: &str) -> (&B, Range<u64>) {
        let place = self.places.get(name).unwrap_or_else(|| panic!("`{name}` is no state of a loaded plan"));
        (self.buffer(place.buffer), place.bytes.clone())
    }

    pub fn buffer(&self, buffer: usize) -> &B {
        self.buffers[buffer].as_ref().expect("a buffer that was not freed")
    }

    /// Number of buffers.
    pub fn len(&self) -> usize {
        self.buffers.iter().flatten().count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
        let buffer = self.places[name].buffer;
        &mut self.buffers[buffer].as_mut().expect("a buffer that was not freed")[words(&range)]
    }
}

fn words(bytes: &Range<u64>) -> Range<usize> {
    (bytes.start / 4) as usize..(bytes.end / 4) as usize
}
