//! T5's attention: of a stack to itself, with a bias by head and distance, and of the decoder to the encoder's hidden states.

use super::super::blocks::{CacheMode, Model};
use super::super::config::{Config, Position};
use super::super::encoder_decoder::Source;
use super::{Stack, per_root};
use crate::graph::{Graph, Initial, Tensor};
use crate::ops::attention::{Attention, Mask};
use crate::ops::attention_cached::AttentionCached;
use crate::ops::cache_append::CacheAppend;
use crate::ops::relative_bias::RelativeBias;

/// The bias of a stack's scores, (NH, distances), from the table that its first block holds: of whole rows of ids (B, T), or of a row's
/// new position to its cache.
pub(super) fn bias_of(m: &Model, g: &mut Graph, stack: Stack, (ids, cache): (Tensor, CacheMode)) -> Tensor {
    let Config { heads, width, context, position, .. } = *m.config;
    let Position::Relative { buckets, most: max_distance } = position else { unreachable!("T5's positions") };
    let name = match stack {
        Stack::Encoder => "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        Stack::Decoder => "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    };
    g.scope("relative positions");
    let table = m.parameter(g, name, &[buckets, heads], m.std(per_root(width)));
    let time = if matches!(cache, CacheMode::Decode { .. }) { context } else { g.shape(ids).columns() };
    let bidirectional = stack == Stack::Encoder;
    g.apply(RelativeBias { queries: time, keys: time, buckets, max_distance, bidirectional }, &[table])
}

/// x + attention(norm(x)).
pub(super) fn self_attention(
    m: &Model,
    g: &mut Graph,
    x: Tensor,
    name: &str,
    (stack, layer, bias): (Stack, usize, Tensor),
    cache: CacheMode,
) -> Tensor {
    let Config { width: c, heads, head_size, attention_scale: scale, .. } = *m.config;
    let inner = heads * head_size;
    g.scope(name);
    let n = m.norm(g, x, &format!("{name}.layer_norm"));
    // Scores are not scaled: the initial values of q are, instead.
    let (q, kv) = (m.deviation(per_root(c * head_size)), m.deviation(per_root(c)));
    let initial = Initial::Thirds { stds: [q, kv, kv] };
    let qkv = m.linear_from(g, n, &format!("{name}.SelfAttention.qkv"), (c, 3 * inner), initial); // (B, T, 3 inner)
    // The decoder's layers follow the encoder's.
    let place = if stack == Stack::Encoder { layer } else { m.config.layers + layer };
    let y = if let CacheMode::Decode { rows, positions } = cache {
        let kept = m.cache(g, layer, rows);
        let kept = g.apply(CacheAppend, &[qkv, kept, positions]);
        let op = AttentionCached { bias: true, scale, ..AttentionCached::default() };
        g.apply(op, &[qkv, kept, positions, bias])
    } else {
        let (mask, words) = match (stack, cache) {
            (Stack::Encoder, CacheMode::Encoded { lengths: Some(lengths), .. }) => (Mask::Lengths, Some(lengths)),
            (Stack::Encoder, _) => (Mask::Full, None),
            (Stack::Decoder, _) => (Mask::Causal { window: None }, None),
        };
        let inputs = [qkv].into_iter().chain(words).chain([bias]).collect::<Vec<_>>();
        let (dropout, salt) = m.attention_dropout(place);
        let op = Attention { heads, kv_heads: heads, mask, bias: true, scale, dropout, salt, ..Attention::default() };
        g.apply(op, &inputs)
    };
    let y = m.projection_from(g, y, &format!("{name}.SelfAttention.o"), (inner, c), m.std(per_root(inner)));
    m.add_residual(g, x, y, place, 0)
}

/// x + attention of norm(x) to the encoder's hidden states.
pub(super) fn cross_attention(
    m: &Model,
    g: &mut Graph,
    x: Tensor,
    name: &str,
    layer: usize,
    (cache, source): (CacheMode, Source),
) -> Tensor {
    let Config { width: c, heads, head_size, attention_scale: scale, .. } = *m.config;
    let inner = heads * head_size;
    g.scope(name);
    let n = m.norm(g, x, &format!("{name}.layer_norm"));
    let initial = m.std(per_root(c * head_size));
    let q = m.linear_from(g, n, &format!("{name}.EncDecAttention.q"), (c, inner), initial); // (B, T, inner)
    // Streams of dropout of their own, after those of both stacks.
    let place = m.config.layers + m.decoder_layers() + layer;
    let y = match (source, cache) {
        (Source::Cached { last }, CacheMode::Decode { rows, .. }) => {
            let kept = m.source_cache(g, layer, rows);
            let op = AttentionCached { apart: true, scale, ..AttentionCached::default() };
            g.apply(op, &[q, kept, last])
        }
        (Source::States { encoded, lengths }, _) => {
            let kv = keys_values(m, g, encoded, layer); // (B, S, 2 inner)
            let mask = if lengths.is_some() { Mask::Lengths } else { Mask::Full };
            let inputs = [q, kv].into_iter().chain(lengths).collect::<Vec<_>>();
            let (dropout, salt) = m.attention_dropout(place);
            let op =
                Attention { heads, kv_heads: heads, apart: true, mask, scale, dropout, salt, ..Attention::default() };
            g.apply(op, &inputs)
        }
        (Source::Cached { .. }, _) => unreachable!("whole rows have the encoder's states"),
    };
    let y = m.projection_from(g, y, &format!("{name}.EncDecAttention.o"), (inner, c), m.std(per_root(inner)));
    m.add_residual(g, x, y, place, 0)
}

/// Keys and values (B, S, k | v) of the encoder's hidden states, for a layer of the decoder.
pub(super) fn keys_values(m: &Model, g: &mut Graph, encoded: Tensor, layer: usize) -> Tensor {
    let (c, inner) = (m.config.width, m.config.heads * m.config.head_size);
    let name = format!("decoder.block.{layer}.layer.1.EncDecAttention.kv");
    m.linear_from(g, encoded, &name, (c, 2 * inner), m.std(per_root(c)))
}
