//! Parameters: states that training changes. Each is declared once, where the graph is built; initial values, optimiser groups,
//! freezing, learning rates and checkpoints read that declaration.

use super::quantisation::QuantisedAs;
use std::sync::atomic::{AtomicU64, Ordering};

/// One parameter of a network.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Name of its state: the network's prefix, then the name in Hugging Face checkpoints.
    pub name: String,
    pub dims: Vec<usize>,
    pub initial: Initial,
    /// Whether weight decay applies: to matrices and tables, not to biases and norms.
    pub decays: bool,
    pub depth: Depth,
    /// Whether it is an adapter's: where a network has some, they alone are trained.
    pub adapter: bool,
    /// How it is quantised on a device, where it is: then it is not trained.
    pub quantised: Option<QuantisedAs>,
}

impl Parameter {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.dims.iter().product()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The distribution that initial values are drawn from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Initial {
    Zeros,
    Ones,
    /// Normal with mean 0.
    Normal {
        std: f64,
    },
    /// As `Normal`, of three equal parts along the rows, each with a deviation of its own: q, k and v.
    Thirds {
        stds: [f64; 3],
    },
    /// Uniform from -bound to bound.
    Uniform {
        bound: f64,
    },
}

/// Where in a network a parameter stands, from its inputs to its outputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// Token and position embeddings.
    #[default]
    Embedding,
    /// A transformer block, counted from 0.
    Block(usize),
    /// The norm after the last block.
    Top,
    /// An output projection or a task's head.
    Head,
}

/// Tells networks apart: two networks never share a state by accident of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NetworkId(u64);

impl NetworkId {
    /// An identity that no other network has.
    #[expect(clippy::new_without_default, reason = "every call gives another value")]
    pub fn new() -> NetworkId {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        NetworkId(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}
