//! The graphs of generation: a prompt fills a row of the caches, rows follow others, and each row decodes a token.

use crate::graph::{Graph, Shape, Tensor};
use crate::models::network::Network;
use crate::ops::best_tokens::BestTokens;
use crate::ops::cache_reorder::CacheReorder;
use crate::ops::next_token::{NextToken, PARAMS, seen_words};

/// Positions of a text that no context ends: more than are ever generated.
const MOST_POSITIONS: usize = 1 << 30;

/// Tokens that the shortest prefill window holds.
const SHORTEST_WINDOW: usize = 16;

/// What a decode plan does with its logits.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Choice {
    /// A token of each row is drawn as the row's parameters say; the `best` most likely ones are told beside it.
    Draw { best: usize },
    /// The best `count` tokens of each row are handed to the host.
    Best { count: usize, repetition_penalty: f32 },
}

/// The window that holds so many tokens: of few lengths, so that few programs are made, none much longer than needed.
pub(super) fn window(tokens: usize, context: usize) -> usize {
    let step = (tokens.next_power_of_two() / 4).max(SHORTEST_WINDOW);
    tokens.next_multiple_of(step).min(context)
}

/// Fills row `Step::row` of a cache of `rows` rows from a window of tokens, input `ids` (1, window).
pub fn prefill_graph(network: &Network, rows: usize, window: usize) -> Graph {
    if network.config().encoder_decoder.is_some() {
        return source_graph(network, rows, window);
    }
    let mut g = Graph::new();
    let ids = g.input("ids", Shape::u32(&[1, window]));
    network.inference().prefill(&mut g, ids, rows);
    g
}

/// Fills a row of the caches of an encoder's input of so many tokens.
pub(super) fn source_graph(network: &Network, rows: usize, length: usize) -> Graph {
    let mut g = Graph::new();
    let ids = g.input("ids", Shape::u32(&[1, length]));
    let lengths = g.input("lengths", Shape::u32(&[1]));
    network.inference().fill_sources(&mut g, ids, lengths, rows);
    g
}

/// Copies the cache of the encoder's input of each row's parent to the row.
pub(super) fn reorder_sources_graph(network: &Network, rows: usize) -> Graph {
    let mut g = Graph::new();
    let parents = g.input("parents", Shape::u32(&[rows]));
    for cache in network.inference().source_caches(&mut g, rows) {
        g.apply(CacheReorder { filled: true }, &[cache, parents]);
    }
    g
}

/// Copies the cache and the seen tokens of each row's parent to the row.
pub(super) fn reorder_graph(network: &Network, vocabulary: usize, rows: usize) -> Graph {
    let mut g = Graph::new();
    let parents = g.input("parents", Shape::u32(&[rows]));
    // All of a memory is filled.
    let filled = network.config().recurrence.is_none();
    for cache in network.inference().caches(&mut g, rows) {
        g.apply(CacheReorder { filled }, &[cache, parents]);
    }
    let seen = g.state_u32(&state_name(network, rows, "seen"), &[rows, seen_words(vocabulary)]);
    g.apply(CacheReorder { filled: false }, &[seen, parents]);
    g
}

pub(super) fn state_name(network: &Network, rows: usize, what: &str) -> String {
    format!("{}decode.{rows}.{what}", network.prefix())
}

/// The name of the state that holds the position of each row.
pub fn positions_name(network: &Network, rows: usize) -> String {
    state_name(network, rows, "positions")
}

/// One decode step: the next token of each row.
pub(super) fn decode_graph(network: &Network, vocabulary: usize, rows: usize, choice: &Choice) -> Graph {
    let mut g = Graph::new();
    let ids = g.state_u32(&state_name(network, rows, "ids"), &[rows, 1]);
    let report = g.state(&state_name(network, rows, "report"), &[rows, 2]);
    let seen = g.state_u32(&state_name(network, rows, "seen"), &[rows, seen_words(vocabulary)]);
    let positions = g.state_u32(&state_name(network, rows, "positions"), &[rows]);
    let seeds = g.state_u32(&state_name(network, rows, "seeds"), &[rows]);
    let params = g.state(&state_name(network, rows, "params"), &[rows, PARAMS]);
    let logits = match network.config().encoder_decoder {
        Some(_) => {
            let last = g.state_u32(&state_name(network, rows, "source_last"), &[rows]);
            network.inference().decode_after(&mut g, ids, positions, last)
        }
        None => network.inference().decode(&mut g, ids, positions),
    };
    g.output("logits", logits);
    g.scope("choice");
    // The tokens seen by then.
    let best = |g: &mut Graph, count, repetition_penalty| {
        let best = g.apply(BestTokens { vocabulary, count, repetition_penalty }, &[logits, seen, ids]);
        g.output("best", best);
        Tensor { slot: 1, ..best }
    };
    match *choice {
        Choice::Draw { best: count } => {
            let seen = if count > 0 { best(&mut g, count, 1.0) } else { seen };
            // A memory has no last position.
            let context = if network.config().recurrence.is_some() { MOST_POSITIONS } else { network.config().context };
            let op = NextToken { vocabulary, context };
            g.apply(op, &[logits, seen, ids, report, positions, seeds, params]);
        }
        Choice::Best { count, repetition_penalty } => _ = best(&mut g, count, repetition_penalty),
    }
    g
}
