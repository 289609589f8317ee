//! Sizes of attention's tensors, where in them a head's rows stand, and ranges of batch entries that can be bound.

use super::Mask;
use crate::graph::{Dtype, Limits, Shape};
use std::ops::Range;

/// Sizes of the tensors.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Size {
    pub b: usize,
    /// Queries, and keys, of a batch entry.
    pub t: usize,
    pub keys: usize,
    pub heads: usize,
    pub kv_heads: usize,
    /// Columns of a head.
    pub hs: usize,
    pub mask: Mask,
    /// Keys that a query sees at most: `keys` without a window.
    pub window: usize,
    /// Whether keys and values are a tensor of their own.
    pub apart: bool,
    /// What scores are multiplied by; 1 / sqrt(HS) if `None`.
    pub scale: Option<f32>,
    /// Type of what is not a statistic of rows.
    pub dtype: Dtype,
}

impl Size {
    /// What a choice of tiling depends on.
    pub fn class(&self, name: &str) -> String {
        let heads = (self.b * self.heads).next_power_of_two();
        let (queries, keys) = (self.t.next_power_of_two(), self.keys.next_power_of_two());
        let keys = if keys == queries { String::new() } else { format!("+{keys}") };
        let mask = match self.mask.without_words() {
            Mask::Full => " full".into(),
            _ if self.window < self.keys => format!(" window {}", self.window.next_power_of_two()),
            _ => String::new(),
        };
        let apart = if self.apart { " apart" } else { "" };
        format!("{name} {heads}x{queries}{keys}x{}{mask}{apart}{}", self.hs, self.dtype.suffix())
    }

    /// Shapes of what holds q, k and v.
    pub fn operands(&self) -> Vec<Shape> {
        let shape = |time, columns| Shape { dims: vec![self.b, time, columns], dtype: self.dtype };
        let keys = self.apart.then(|| shape(self.keys, self.kv_row()));
        std::iter::once(shape(self.t, self.row())).chain(keys).collect()
    }

    /// Shape of y.
    pub fn result(&self) -> Shape {
        Shape { dims: vec![self.b, self.t, self.c()], dtype: self.dtype }
    }

    /// Shape of lse and delta.
    pub fn statistics(&self) -> Shape {
        Shape::f32(&[self.b, self.heads, self.t])
    }

    /// Distances of a key from a query: from `t - 1` before it to `keys - 1` after it.
    pub fn distances(&self) -> usize {
        self.t + self.keys - 1
    }

    /// Shape of a bias.
    pub fn bias(&self) -> Shape {
        Shape::f32(&[self.heads, self.distances()])
    }

    /// Shape of a bias of each query.
    pub fn bias_of_queries(&self) -> Shape {
        Shape::f32(&[self.b, self.t, self.heads * self.keys])
    }

    /// Columns of y.
    pub fn c(&self) -> usize {
        self.heads * self.hs
    }

    /// Columns of the tensor with the queries.
    pub fn row(&self) -> usize {
        if self.apart { self.c() } else { (self.heads + 2 * self.kv_heads) * self.hs }
    }

    /// Columns of the tensor with keys and values.
    pub fn kv_row(&self) -> usize {
        if self.apart { 2 * self.kv_heads * self.hs } else { self.row() }
    }

    /// Bytes of `entries` in a tensor with `columns` columns, a multiple of 4 of them, for each of `time` positions.
    fn bytes_of(&self, entries: &Range<usize>, time: usize, columns: usize) -> Range<u64> {
        let entry = (time * columns) as u64 * self.dtype.size_bytes();
        entries.start as u64 * entry..entries.end as u64 * entry
    }

    /// Bytes of `entries` in a tensor with `columns` columns per query.
    pub fn bytes(&self, entries: &Range<usize>, columns: usize) -> Range<u64> {
        self.bytes_of(entries, self.t, columns)
    }

    /// Bytes of `entries` in the tensor with keys and values.
    pub fn kv_bytes(&self, entries: &Range<usize>) -> Range<u64> {
        self.bytes_of(entries, self.keys, self.kv_row())
    }

    /// Ranges of batch entries whose tensors each fit one binding and start aligned; all of them as one, which is not planned,
    /// where that cannot be.
    pub fn chunks(&self, limits: &Limits) -> Vec<Range<usize>> {
        let one = 0..1;
        let ranges = [self.bytes(&one, self.row()), self.kv_bytes(&one), self.bytes(&one, self.c())];
        let most = ranges.iter().map(|r| r.end).max().expect("three ranges");
        let fit = (limits.binding_bytes / most) as usize;
        if fit >= self.b {
            return std::iter::once(0..self.b).collect();
        }
        // An alignment is a power of two.
        let zeros = ranges.iter().map(|r| r.end.trailing_zeros()).min().expect("three ranges");
        let step = (limits.alignment_bytes >> zeros).max(1) as usize;
        let count = fit / step * step;
        let count = if count > 0 { count } else { self.b };
        (0..self.b).step_by(count).map(|start| start..self.b.min(start + count)).collect()
    }

    /// Where position `t` of a head of queries, counted over the batch, starts: the operand and the element of it, of its q
    /// (`part` 0), or of the k or v that it shares.
    pub fn at(&self, head: usize, t: usize, part: usize) -> (usize, usize) {
        let (entry, head) = (head / self.heads, head % self.heads);
        if part == 0 {
            return (0, (entry * self.t + t) * self.row() + head * self.hs);
        }
        let before = if self.apart { 0 } else { self.heads };
        let column = before + (part - 1) * self.kv_heads + head / (self.heads / self.kv_heads);
        (usize::from(self.apart), (entry * self.keys + t) * self.kv_row() + column * self.hs)
    }

    /// The element of y at which a head's position `t` starts.
    pub fn y_at(&self, head: usize, t: usize) -> usize {
        (head / self.heads * self.t + t) * self.c() + head % self.heads * self.hs
    }

    /// The element of a bias for a head of queries, counted over the batch, and a pair of query and key.
    pub fn bias_at(&self, head: usize, i: usize, j: usize) -> usize {
        head % self.heads * self.distances() + j + self.t - 1 - i
    }

    /// The same of a bias of each query, for a key that is not after the query.
    pub fn bias_of_query_at(&self, head: usize, i: usize, j: usize) -> usize {
        let row = (head / self.heads * self.t + i) * self.heads + head % self.heads;
        row * self.keys + i + self.keys - self.t - j
    }

    pub fn scale(&self) -> f64 {
        self.scale.map_or(1.0 / (self.hs as f64).sqrt(), f64::from)
    }

    pub fn score(&self, q: &[f32], k: &[f32]) -> f64 {
        dot(q, k) * self.scale()
    }
}

pub(in crate::ops) fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::AdapterKind;

    #[test]
    fn chunks_are_aligned_whole_entries_that_cover_the_batch() {
        let limits = |binding_bytes| Limits { binding_bytes, ..Limits::portable(AdapterKind::Gpu) };
        // One entry of y is 5 * 32 * 4 = 640 bytes: every second one starts at a multiple of 256.
        let (mask, scale, dtype) = (Mask::default(), None, Dtype::F32);
        let packed =
            Size { b: 7, t: 5, keys: 5, heads: 2, kv_heads: 2, hs: 16, mask, window: 5, apart: false, scale, dtype };
        assert_eq!(packed.chunks(&limits(7 * 1920)).len(), 1);
        assert_eq!(packed.chunks(&limits(5 * 1920)), [0..4, 4..7]);
        assert!(packed.chunks(&limits(4000)).iter().all(|c| packed.bytes(c, 32).start.is_multiple_of(256)));
        // Nine keys of 2 * 32 columns: 2304 bytes, more than the queries.
        let apart = Size { keys: 9, window: 9, apart: true, ..packed };
        assert_eq!(apart.chunks(&limits(5 * 2304)), [0..4, 4..7]);
        assert!(apart.chunks(&limits(5000)).iter().all(|c| apart.kv_bytes(c).start.is_multiple_of(256)));
    }
}
