//! Which parameters are trained, and how fast: freezing, layer-wise decay of the learning rate, a rate for heads.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::graph::{Depth, Parameter};

/// A parameter's learning rate, as a multiple of the run's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    pub freeze: Freeze,
    /// Each layer learns this much slower than the one above it, the embeddings slower than the first (Clark et al. 2020,
    /// "ELECTRA", section 3.1); 1 for no decay.
    pub layer_decay: f32,
    /// The rate of heads.
    pub head: f32,
}

impl Default for Rates {
    fn default() -> Rates {
        Rates { freeze: Freeze::Layers(0), layer_decay: 1.0, head: 1.0 }
    }
}

impl Rates {
    /// The rate of a parameter among `all`; nothing where it is frozen.
    pub fn of(&self, parameter: &Parameter, all: &[Parameter]) -> Option<f32> {
        if !self.freeze.trains(parameter.depth) {
            return None;
        }
        let blocks = |p: &Parameter| if let Depth::Block(block) = p.depth { block + 1 } else { 0 };
        let top = all.iter().map(blocks).max().unwrap_or(0) + 1;
        let layer = match parameter.depth {
            Depth::Embedding => 0,
            Depth::Block(block) => block + 1,
            Depth::Top => top,
            Depth::Head => return Some(self.head),
        };
        Some(self.layer_decay.powi((top - layer) as i32))
    }
}

/// The parameters that are not trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Freeze {
    /// So many of the lowest layers, and the embeddings below them; 0 trains everything.
    Layers(usize),
    /// Everything but heads.
    All,
}

impl FromStr for Freeze {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "all" => Ok(Freeze::All),
            _ => text.parse().map(Freeze::Layers).map_err(|_| "give a number of layers, or all".into()),
        }
    }
}

impl Freeze {
    fn trains(self, depth: Depth) -> bool {
        match (self, depth) {
            (_, Depth::Head) | (Freeze::Layers(0), _) => true,
            (Freeze::All, _) | (_, Depth::Embedding) => false,
            (Freeze::Layers(layers), Depth::Block(block)) => block >= layers,
            (Freeze::Layers(_), Depth::Top) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Initial;

    fn parameter(depth: Depth) -> Parameter {
        Parameter {
            name: "p".into(),
            dims: vec![2, 2],
            initial: Initial::Zeros,
            decays: true,
            depth,
            adapter: false,
            quantised: None,
        }
    }

    fn rates(rates: Rates) -> Vec<Option<f32>> {
        let depths = [Depth::Embedding, Depth::Block(0), Depth::Block(1), Depth::Top, Depth::Head];
        let all = depths.map(parameter);
        all.iter().map(|p| rates.of(p, &all)).collect()
    }

    #[test]
    fn learning_rates_decay_from_the_top_to_the_embeddings() {
        let decay = Rates { layer_decay: 0.5, head: 3.0, ..Rates::default() };
        assert_eq!(rates(decay), [0.125, 0.25, 0.5, 1.0, 3.0].map(Some));
        assert_eq!(rates(Rates::default()), [1.0; 5].map(Some));
    }

    #[test]
    fn freezing_goes_from_the_embeddings_up() {
        let frozen = |freeze| rates(Rates { freeze, ..Rates::default() }).iter().filter(|rate| rate.is_none()).count();
        assert_eq!([0, 1, 2].map(|layers| frozen(Freeze::Layers(layers))), [0, 2, 3]);
        assert_eq!(frozen(Freeze::All), 4, "all but the head");
        assert_eq!("all".parse(), Ok(Freeze::All));
        assert_eq!("3".parse(), Ok(Freeze::Layers(3)));
    }
}
