//! Sums over ranks: each rank adds up a part of the values, in the order of the ranks, and sends the sums to all.
//!
//! f32 values are added as they are, so that the sum of N ranks has the bits of a running sum over their values. In f16 both ways are
//! rounded: a block's values are scaled by a power of two that brings the largest near f16's largest, added in f32, and the sums
//! scaled and rounded again. Every rank receives the same bits.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::{Transport, Wire};

/// The largest value of a block is scaled to at most this.
const LARGEST: f32 = 32768.0;

/// Buffers of a sum, which keep their memory.
#[derive(Default)]
pub struct Summation {
    own: Vec<u8>,
    all: Vec<u8>,
    sums: Vec<f32>,
    values: Vec<f32>,
    halves: Vec<f16>,
}

impl Summation {
    /// Adds up `values` over all ranks.
    pub fn sum(&mut self, transport: &mut dyn Transport, values: &mut [f32], wire: Wire) {
        let (rank, count) = (transport.rank(), transport.count());
        let block = values.len().div_ceil(count);
        let size = bytes_of(block, wire);
        self.own.resize(size * count, 0);
        self.all.resize(size * count, 0);
        let all = values.len();
        let part = |rank: usize| (rank * block).min(all)..((rank + 1) * block).min(all);
        for (to, bytes) in self.own.chunks_mut(size).enumerate() {
            write(&values[part(to)], wire, bytes, &mut self.halves);
        }
        transport.all_to_all(&self.own, &mut self.all);
        let len = part(rank).len();
        self.sums.resize(len, 0.0);
        self.values.resize(len, 0.0);
        for (from, bytes) in self.all.chunks(size).enumerate() {
            match from {
                0 => read(bytes, wire, &mut self.sums, &mut self.halves),
                _ => {
                    read(bytes, wire, &mut self.values, &mut self.halves);
                    self.sums.iter_mut().zip(&self.values).for_each(|(sum, value)| *sum += value);
                }
            }
        }
        write(&self.sums, wire, &mut self.own[..size], &mut self.halves);
        transport.all_gather(&self.own[..size], &mut self.all);
        for (from, bytes) in self.all.chunks(size).enumerate() {
            read(bytes, wire, &mut values[part(from)], &mut self.halves);
        }
    }
}

/// Bytes of a block: of f16 a scale in front of the values.
fn bytes_of(values: usize, wire: Wire) -> usize {
    match wire {
        Wire::F32 => 4 * values,
        Wire::F16 => 4 + 2 * values,
    }
}

fn write(values: &[f32], wire: Wire, bytes: &mut [u8], halves: &mut Vec<f16>) {
    match wire {
        Wire::F32 => bytes[..4 * values.len()].copy_from_slice(bytemuck::cast_slice(values)),
        Wire::F16 => {
            let scale = scale(values);
            halves.clear();
            halves.extend(values.iter().map(|value| f16::from_f32(value * scale)));
            bytes[..4].copy_from_slice(&scale.to_le_bytes());
            bytes[4..4 + 2 * values.len()].copy_from_slice(bytemuck::cast_slice(halves.as_slice().reinterpret_cast()));
        }
    }
}

fn read(bytes: &[u8], wire: Wire, values: &mut [f32], halves: &mut Vec<f16>) {
    match wire {
        Wire::F32 => {
            let end = 4 * values.len();
            bytemuck::cast_slice_mut(values).copy_from_slice(&bytes[..end]);
        }
        Wire::F16 => {
            let scale = bytes[..4].try_into().map_or(1.0, f32::from_le_bytes);
            halves.resize(values.len(), f16::ZERO);
            bytemuck::cast_slice_mut(halves.as_mut_slice().reinterpret_cast_mut())
                .copy_from_slice(&bytes[4..4 + 2 * values.len()]);
            values.iter_mut().zip(halves.iter()).for_each(|(value, half)| *value = half.to_f32() / scale);
        }
    }
}

/// The power of two that brings the largest finite value to [`LARGEST`] or just below; 1 where all are zero or beyond it.
fn scale(values: &[f32]) -> f32 {
    let finite = values.iter().map(|value| value.abs()).filter(|value| value.is_finite());
    let largest = finite.fold(0.0f32, f32::max);
    if largest == 0.0 {
        return 1.0;
    }
    // Of numbers that are subnormal themselves the scale stays finite.
    (LARGEST / largest).log2().floor().clamp(-120.0, 120.0).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranks::Ranks;
    use std::sync::{Arc, Barrier, Mutex};

    /// Ranks that are threads.
    struct Threads {
        rank: usize,
        shared: Arc<(Vec<Mutex<Vec<u8>>>, Barrier)>,
    }

    impl Threads {
        fn exchange(&self, own: &[u8], mut take: impl FnMut(usize, &[u8])) {
            let (slots, barrier) = &*self.shared;
            *slots[self.rank].lock().unwrap() = own.to_vec();
            barrier.wait();
            slots.iter().enumerate().for_each(|(from, slot)| take(from, &slot.lock().unwrap()));
            barrier.wait();
        }
    }

    impl Transport for Threads {
        fn rank(&self) -> usize {
            self.rank
        }

        fn count(&self) -> usize {
            self.shared.0.len()
        }

        fn all_to_all(&mut self, own: &[u8], all: &mut [u8]) {
            let (size, rank) = (own.len() / self.count(), self.rank);
            self.exchange(own, |from, bytes| {
                all[from * size..(from + 1) * size].copy_from_slice(&bytes[rank * size..(rank + 1) * size]);
            });
        }

        fn all_gather(&mut self, own: &[u8], all: &mut [u8]) {
            self.exchange(own, |from, bytes| all[from * bytes.len()..(from + 1) * bytes.len()].copy_from_slice(bytes));
        }

        fn broadcast(&mut self, wanted: usize, bytes: &mut [u8]) {
            let own = bytes.to_vec();
            self.exchange(&own, |from, sent| {
                if from == wanted {
                    bytes.copy_from_slice(sent)
                }
            });
        }
    }

    /// What `work` gives on each of `count` ranks.
    fn on_ranks<T: Send>(count: usize, work: impl Fn(&Ranks) -> T + Sync) -> Vec<T> {
        let shared = Arc::new(((0..count).map(|_| Mutex::default()).collect(), Barrier::new(count)));
        let run = |rank: usize| {
            let shared = Arc::clone(&shared);
            let ranks = Ranks::with(move || Ok(Threads { rank, shared })).unwrap();
            assert_eq!((ranks.rank(), ranks.count(), ranks.local()), (rank, count, rank));
            let result = work(&ranks);
            ranks.finish();
            result
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..count).map(|rank| scope.spawn(move || run(rank))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    fn values(rank: usize, len: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 7919 + rank * 104_729) % 1000) as f32 * 1.7e-6 - 0.9e-3 / (rank + 1) as f32).collect()
    }

    #[test]
    fn sums_have_the_bits_of_a_running_sum_and_are_the_same_on_all_ranks() {
        for (count, len) in [(2, 10), (3, 10), (4, 3), (3, 0)] {
            let mut wanted = values(0, len);
            for rank in 1..count {
                wanted.iter_mut().zip(values(rank, len)).for_each(|(sum, value)| *sum += value);
            }
            let sums = on_ranks(count, |ranks| ranks.sum(values(ranks.rank(), len)));
            sums.iter().for_each(|sum| assert_eq!(sum, &wanted, "{count} ranks, {len} values"));
        }
    }

    #[test]
    fn f16_is_good_to_its_digits_whatever_the_size_of_values_and_keeps_what_is_not_finite() {
        for size in [1e-30, 1.0, 1e30] {
            let sums = on_ranks(2, |ranks| {
                let values = values(ranks.rank(), 100).into_iter().map(|value| value * size).collect();
                ranks.begin_sum(super::super::Piece { values, tag: 3 }, Wire::F16);
                ranks.end_sum(true).unwrap()
            });
            assert_eq!((sums[0].tag, &sums[0].values), (3, &sums[1].values));
            for (i, sum) in sums[0].values.iter().enumerate() {
                let wanted = (values(0, 100)[i] + values(1, 100)[i]) * size;
                // Two values and their sum, each at most 2.1e-3, are rounded by 2^-11 of themselves: 3.1e-6 at most.
                assert!((sum - wanted).abs() <= 4e-6 * size, "{sum} {wanted}");
            }
        }
        let sums = on_ranks(2, |ranks| {
            let values = vec![1.0, if ranks.rank() == 1 { f32::INFINITY } else { 2.0 }, f32::NAN];
            ranks.begin_sum(super::super::Piece { values, tag: 0 }, Wire::F16);
            ranks.end_sum(true).unwrap().values
        });
        assert!(sums[0][0] == 2.0 && sums[0][1] == f32::INFINITY && sums[0][2].is_nan(), "{sums:?}");
    }

    #[test]
    fn what_ranks_say_arrives_in_their_order_and_parts_cover_everything_once() {
        let said = on_ranks(3, |ranks| {
            let own = "x".repeat(ranks.rank() * 2);
            (ranks.gather(own.as_bytes()), ranks.broadcast(1, own.into_bytes()), ranks.part(7))
        });
        for (all, from_first, _) in &said {
            assert_eq!(*all, [&b""[..], b"xx", b"xxxx"]);
            assert_eq!(from_first, b"xx");
        }
        let parts: Vec<_> = said.into_iter().map(|(.., part)| part).collect();
        assert_eq!(parts, [0..2, 2..4, 4..7]);
    }
}
