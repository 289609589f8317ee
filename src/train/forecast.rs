//! What a step takes on several machines, before any of them is rented: seconds of arithmetic, transfer and idling, of synchronous and of
//! local steps.
//!
//! A rank sends its part of the values to every other and receives the sums, `2 (N - 1) / N` times all values each way
//! (`ranks/sum.rs`), while it computes nothing. Values are handed over by the host, which overlaps the network.

use std::fmt;
use std::str::FromStr;

use super::exchange::PIECE;
use crate::ranks::Wire;

/// Payload of a frame of 1514 bytes, with the headers of Ethernet, IP and TCP.
const PAYLOAD: f64 = 1448.0 / 1514.0;
/// Bytes per second of reading values back and writing sums, of a GPU behind PCIe 3 with 8 lanes or more.
const HOST_BYTES: f64 = 5e9;
/// Idle share of a synchronous step up to which it is the better choice: it learns as one machine does.
const MOST_IDLE: f64 = 0.25;
/// That of local steps.
const MOST_IDLE_LOCALLY: f64 = 0.1;
/// Local steps that are looked at; 500 are those of the paper.
const LOCAL_STEPS: [u64; 4] = [10, 50, 100, 500];

/// Bits per second of a network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bandwidth(pub f64);

impl FromStr for Bandwidth {
    type Err = String;

    fn from_str(text: &str) -> Result<Bandwidth, String> {
        let wrong = || format!("`{text}` is no bandwidth: give a number and kbit, Mbit or Gbit, such as 1Gbit");
        let lower = text.trim().trim_end_matches("/s").to_lowercase();
        let (number, factor) = [("kbit", 1e3), ("mbit", 1e6), ("gbit", 1e9)]
            .iter()
            .find_map(|(unit, factor)| Some((lower.strip_suffix(unit)?, *factor)))
            .ok_or_else(wrong)?;
        let number: f64 = number.trim().parse().map_err(|_| wrong())?;
        if number.is_finite() && number > 0.0 { Ok(Bandwidth(number * factor)) } else { Err(wrong()) }
    }
}

impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bits if bits >= 1e9 => write!(f, "{} Gbit/s", bits / 1e9),
            bits => write!(f, "{} Mbit/s", bits / 1e6),
        }
    }
}

/// Machines with one rank each, and the network between them.
#[derive(Clone, Copy, Debug)]
pub struct Cluster {
    pub machines: usize,
    /// Of each machine, each way.
    pub bandwidth: Bandwidth,
    /// Seconds from one machine to another.
    pub latency: f64,
}

/// A run's steps on one machine.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Values that are trained.
    pub parameters: u64,
    /// Micro-batches of a step, over all machines.
    pub micro_batches: u64,
    /// Seconds of a micro-batch, and of an update.
    pub micro_batch_seconds: f64,
    pub update_seconds: f64,
}

/// Mean seconds of a step, on the machine that has most to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forecast {
    /// Steps without the other machines; 1 of synchronous steps.
    pub every: u64,
    pub compute: f64,
    pub transfer: f64,
}

impl Forecast {
    pub fn step(&self) -> f64 {
        self.compute + self.transfer
    }

    /// The share of a step in which a device computes nothing.
    pub fn idle(&self) -> f64 {
        self.transfer / self.step()
    }
}

impl Cluster {
    /// Seconds of a sum over all machines.
    pub fn sum_seconds(&self, values: u64, wire: Wire) -> f64 {
        if self.machines < 2 {
            return 0.0;
        }
        let bytes = values as f64 * if wire == Wire::F16 { 2.0 } else { 4.0 };
        let others = (self.machines - 1) as f64;
        let sent = 2.0 * bytes * others / self.machines as f64;
        // Both halves of a piece's sum wait for the last byte.
        let waits = 2.0 * values.div_ceil(PIECE as u64) as f64 * self.latency;
        let network = 8.0 * sent / (self.bandwidth.0 * PAYLOAD) + waits;
        network.max(8.0 * values as f64 / HOST_BYTES)
    }

    fn compute(&self, work: &Work) -> f64 {
        work.micro_batches.div_ceil(self.machines as u64) as f64 * work.micro_batch_seconds + work.update_seconds
    }

    /// Steps whose gradient is that of all machines.
    pub fn synchronous(&self, work: &Work, wire: Wire) -> Forecast {
        Forecast { every: 1, compute: self.compute(work), transfer: self.sum_seconds(work.parameters, wire) }
    }

    /// Steps of which every so many are averaged.
    pub fn local(&self, work: &Work, wire: Wire, every: u64) -> Forecast {
        let transfer = self.sum_seconds(work.parameters, wire) / every as f64;
        Forecast { every, compute: self.compute(work), transfer }
    }

    /// Synchronous steps in f32 and f16, then local ones.
    pub fn all(&self, work: &Work) -> [Vec<Forecast>; 2] {
        let local = LOCAL_STEPS.map(|every| self.local(work, Wire::F16, every));
        [[Wire::F32, Wire::F16].map(|wire| self.synchronous(work, wire)).to_vec(), local.to_vec()]
    }

    /// The steps to take: synchronous ones in f32 or f16 where little time is lost, else the fewest local ones that lose little.
    pub fn advice(&self, work: &Work) -> (Wire, Forecast) {
        let [synchronous, local] = self.all(work);
        let good =
            [Wire::F32, Wire::F16].into_iter().zip(synchronous).find(|(_, forecast)| forecast.idle() <= MOST_IDLE);
        let fewest = local.iter().find(|forecast| forecast.idle() <= MOST_IDLE_LOCALLY).or(local.last());
        good.unwrap_or_else(|| (Wire::F16, *fewest.expect("there are some")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfer_and_idling_follow_from_bytes_and_bandwidth() {
        let cluster = |machines, mbit: f64| Cluster { machines, bandwidth: Bandwidth(1e6 * mbit), latency: 0.0 };
        let work = Work { parameters: 1_000_000, micro_batches: 4, micro_batch_seconds: 0.25, update_seconds: 0.0 };
        // 4 MB, half of which goes to the other machine, twice: 32 Mbit.
        let two = cluster(2, 32.0 / PAYLOAD).synchronous(&work, Wire::F32);
        assert!((two.compute - 0.5).abs() < 1e-9 && (two.transfer - 1.0).abs() < 1e-9, "{two:?}");
        assert!((two.idle() - 2.0 / 3.0).abs() < 1e-9);
        let halves = cluster(2, 32.0 / PAYLOAD).local(&work, Wire::F16, 10);
        assert!((halves.transfer - 0.05).abs() < 1e-9, "{halves:?}");
        assert_eq!(cluster(1, 1.0).synchronous(&work, Wire::F32).transfer, 0.0);
        // Three machines take two micro-batches at most.
        assert_eq!(cluster(3, 1.0).synchronous(&work, Wire::F32).compute, 0.5);
        let taken = |mbit| (cluster(2, mbit).advice(&work).0, cluster(2, mbit).advice(&work).1.every);
        assert_eq!(
            [1e4, 120.0, 32.0, 0.1].map(taken),
            [(Wire::F32, 1), (Wire::F16, 1), (Wire::F16, 10), (Wire::F16, 500)]
        );
    }

    #[test]
    fn bandwidths_have_units() {
        let bits = |text: &str| text.parse::<Bandwidth>().map(|bandwidth| bandwidth.0);
        assert_eq!([bits("1Gbit"), bits("100 mbit/s"), bits("2.5kbit")], [Ok(1e9), Ok(1e8), Ok(2500.0)]);
        assert!(["1", "fast", "-1Gbit", "0Mbit", "nanGbit"].iter().all(|text| bits(text).is_err()));
    }
}
