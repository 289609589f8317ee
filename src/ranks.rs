//! The processes that train one model together: what they tell each other, and sums over all of them.
//!
//! A rank is one of `count` processes, numbered from 0. What it tells the others goes through a [`Transport`], of which a program
//! started by `mpirun` has one on MPI (feature `mpi`); otherwise it is the only rank. Calls of a transport are made by a thread of
//! its own, so that values travel while the device is read.
//!
//! Every rank makes the same calls in the same order. None of them fails: where a rank ends, all do (see [`watch`]).

#[cfg(feature = "mpi")]
mod mpi;
mod sum;
pub mod watch;

use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use sum::Summation;
pub use watch::OnEnd;

/// The type of values on their way between ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Wire {
    F32,
    /// Half the bytes: values of a piece are scaled so that the largest is near the largest number of f16.
    F16,
}

/// What all ranks do together, each with blocks of bytes. All ranks make the same call with blocks of the same size.
pub trait Transport {
    fn rank(&self) -> usize;

    /// Number of ranks.
    fn count(&self) -> usize;

    /// Sends block i of `own` to rank i; block i of `all` comes from rank i.
    fn all_to_all(&mut self, own: &[u8], all: &mut [u8]);

    /// Sends `own` to every rank; block i of `all` comes from rank i.
    fn all_gather(&mut self, own: &[u8], all: &mut [u8]);

    /// Sends the bytes of rank `from` to all others.
    fn broadcast(&mut self, from: usize, bytes: &mut [u8]);

    /// Called now and then while there is nothing to do: looks whether another rank has ended.
    fn idle(&mut self) {}

    /// The ranks of this machine and their processes: where one is gone, this process ends, too.
    fn watch(&mut self, _peers: Vec<(usize, u32)>) {}

    /// Tells the others that this rank fails, why, and its exit code.
    fn fail(&mut self, _why: &str, _code: u8) {}
}

/// Values that are summed over all ranks, in place.
#[derive(Debug, Default)]
pub struct Piece {
    pub values: Vec<f32>,
    /// The caller's number of it.
    pub tag: usize,
}

enum Ask {
    Gather(Vec<u8>),
    Broadcast(usize, Vec<u8>),
    Sum(Piece, Wire),
    Watch(Vec<(usize, u32)>),
    Fail(String, u8),
    Finish,
}

enum Answer {
    Gathered(Vec<Vec<u8>>),
    Broadcast(Vec<u8>),
    Summed(Piece),
    Told,
}

/// The thread that makes a transport's calls.
struct Link {
    asks: Sender<Ask>,
    answers: Receiver<Answer>,
    thread: Option<JoinHandle<()>>,
}

/// This process among all ranks.
#[derive(Default)]
pub struct Ranks {
    rank: usize,
    /// Number of the other ranks.
    others: usize,
    local: usize,
    /// None where this process is the only rank.
    link: Option<Mutex<Link>>,
}

impl Ranks {
    /// The ranks that `mpirun` has started, or this process alone. `on_end` ends the process where another rank has ended.
    pub fn start(on_end: OnEnd) -> Result<Ranks> {
        let Some(started) = started_by_mpirun().filter(|started| started.count > 1) else {
            return Ok(Ranks::default());
        };
        #[cfg(feature = "mpi")]
        {
            let ranks = Ranks::with(move || mpi::Mpi::start(on_end))?;
            if ranks.count() != started.count {
                let (wanted, found) = (started.count, ranks.count());
                ranks.finish();
                return Err(Error::Usage(format!(
                    "mpirun has started {wanted} ranks, and MPI finds {found}: start wgpt with the mpirun of the MPI that it was built with"
                )));
            }
            Ok(ranks)
        }
        #[cfg(not(feature = "mpi"))]
        {
            let _ = on_end;
            let count = started.count;
            Err(Error::Usage(format!(
                "mpirun has started {count} ranks, and this wgpt was built without MPI: build it with `cargo build --release \
                 --features mpi`, or start it without mpirun"
            )))
        }
    }

    /// Ranks with a transport, which `make` makes in the thread that uses it.
    pub fn with<T: Transport>(make: impl FnOnce() -> Result<T> + Send + 'static) -> Result<Ranks> {
        let (asks, asked) = channel();
        let (answering, answers) = channel();
        let (tell, told) = channel();
        let work = move || match make() {
            Ok(mut transport) => {
                let known = (transport.rank(), transport.count());
                if tell.send(Ok(known)).is_ok() {
                    serve(&mut transport, &asked, &answering);
                }
            }
            Err(why) => _ = tell.send(Err(why)),
        };
        let thread = std::thread::Builder::new().name("ranks".into()).spawn(work);
        let thread = thread.map_err(|why| Error::Device(format!("cannot start the thread of ranks: {why}")))?;
        let ended = || Error::Device("the thread of ranks has ended: start the run again".into());
        let (rank, count) = told.recv().map_err(|_| ended())??;
        let link = Some(Mutex::new(Link { asks, answers, thread: Some(thread) }));
        let mut ranks = Ranks { rank, others: count - 1, local: 0, link };
        let own = format!("{}\n{}", sysinfo::System::host_name().unwrap_or_default(), std::process::id());
        let all: Vec<String> = ranks.gather(own.as_bytes()).iter().map(|s| String::from_utf8_lossy(s).into()).collect();
        let host = |rank: usize| all[rank].split('\n').next().unwrap_or_default();
        ranks.local = (0..rank).filter(|other| host(*other) == host(rank)).count();
        let here = (0..count).filter(|other| *other != rank && host(*other) == host(rank));
        let process = |rank: usize| all[rank].split('\n').nth(1).and_then(|id| id.parse().ok());
        let peers = here.filter_map(|rank| Some((rank, process(rank)?))).collect();
        ranks.send(Ask::Watch(peers));
        Ok(ranks)
    }

    /// This process as the only rank of a run of its own, on its device.
    pub fn apart(&self) -> Ranks {
        Ranks { local: self.local, ..Ranks::default() }
    }

    /// This process's number, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of ranks.
    pub fn count(&self) -> usize {
        self.others + 1
    }

    pub fn are_several(&self) -> bool {
        self.others > 0
    }

    /// Whether this rank writes the run's files.
    pub fn is_first(&self) -> bool {
        self.rank == 0
    }

    /// This process's number among those of its machine.
    pub fn local(&self) -> usize {
        self.local
    }

    /// This rank's part of `count` things that all ranks share: neighbours, as evenly as possible.
    pub fn part(&self, count: u64) -> Range<u64> {
        let bound = |rank: usize| count * rank as u64 / self.count() as u64;
        bound(self.rank)..bound(self.rank + 1)
    }

    /// What each rank says, in their order.
    pub fn gather(&self, own: &[u8]) -> Vec<Vec<u8>> {
        match self.ask(Ask::Gather(own.to_vec())) {
            Some(Answer::Gathered(all)) => all,
            _ => vec![own.to_vec()],
        }
    }

    /// What rank `from` says, on every rank. The others' bytes are not looked at.
    pub fn broadcast(&self, from: usize, own: Vec<u8>) -> Vec<u8> {
        if !self.are_several() {
            return own;
        }
        match self.ask(Ask::Broadcast(from, own)) {
            Some(Answer::Broadcast(bytes)) => bytes,
            _ => vec![],
        }
    }

    /// Waits for all ranks.
    pub fn meet(&self) {
        self.gather(&[]);
    }

    /// Starts summing a piece over all ranks, in their order: the first's values, plus the second's, and so on.
    pub fn begin_sum(&self, piece: Piece, wire: Wire) {
        self.send(Ask::Sum(piece, wire));
    }

    /// The oldest piece under way, summed; waits for it if `wait`.
    pub fn end_sum(&self, wait: bool) -> Option<Piece> {
        let link = self.link()?;
        let answer = if wait { link.answers.recv().ok() } else { link.answers.try_recv().ok() };
        match answer? {
            Answer::Summed(piece) => Some(piece),
            _ => unreachable!("answers come in the order of what was asked"),
        }
    }

    /// Sums values over all ranks in their order.
    pub fn sum(&self, values: Vec<f32>) -> Vec<f32> {
        if !self.are_several() {
            return values;
        }
        self.begin_sum(Piece { values, tag: 0 }, Wire::F32);
        self.end_sum(true).map_or(vec![], |piece| piece.values)
    }

    /// Ends together with all other ranks, which do the same.
    pub fn finish(&self) {
        if self.are_several() {
            self.meet();
            self.send(Ask::Watch(vec![]));
            self.meet();
            self.send(Ask::Finish);
            if let Some(thread) = self.link().and_then(|mut link| link.thread.take()) {
                let _ = thread.join();
            }
        }
    }

    /// Tells the other ranks why this one fails, and its exit code, before its process ends: the first says it to people. An empty text
    /// is said by nobody.
    pub fn fail(&self, why: &str, code: u8) {
        self.send(Ask::Fail(why.to_string(), code));
        if let Some(link) = self.link() {
            // Sums that are under way are answered before.
            while !matches!(link.answers.recv(), Ok(Answer::Told) | Err(_)) {}
        }
    }

    fn link(&self) -> Option<MutexGuard<'_, Link>> {
        self.link.as_ref().map(|link| link.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn send(&self, ask: Ask) {
        if let Some(link) = self.link() {
            // The thread ends with the process.
            let _ = link.asks.send(ask);
        }
    }

    fn ask(&self, ask: Ask) -> Option<Answer> {
        self.send(ask);
        self.link().and_then(|link| link.answers.recv().ok())
    }
}

/// A process that `mpirun` has started.
#[derive(Clone, Copy, Debug)]
pub struct Started {
    pub rank: usize,
    pub count: usize,
}

/// What the environment says: Open MPI's variables, and those of the PMI that MPICH and its relatives have.
pub fn started_by_mpirun() -> Option<Started> {
    let number = |name: &str| std::env::var(name).ok()?.parse().ok();
    let of = |(rank, count): (&str, &str)| Some(Started { rank: number(rank)?, count: number(count)? });
    [("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ("PMI_RANK", "PMI_SIZE")].into_iter().find_map(of)
}

/// Answers what is asked until the end.
fn serve(transport: &mut impl Transport, asked: &Receiver<Ask>, answering: &Sender<Answer>) {
    let mut summation = Summation::default();
    loop {
        let Ok(ask) = asked.recv_timeout(watch::IDLE) else {
            transport.idle();
            continue;
        };
        let answer = match ask {
            Ask::Gather(own) => Answer::Gathered(gather(transport, &own)),
            Ask::Broadcast(from, bytes) => Answer::Broadcast(broadcast(transport, from, bytes)),
            Ask::Sum(mut piece, wire) => {
                summation.sum(transport, &mut piece.values, wire);
                Answer::Summed(piece)
            }
            Ask::Watch(peers) => {
                transport.watch(peers);
                continue;
            }
            Ask::Fail(why, code) => {
                transport.fail(&why, code);
                Answer::Told
            }
            Ask::Finish => return,
        };
        if answering.send(answer).is_err() {
            return;
        }
    }
}

/// Texts of any length: lengths first, then all with the longest's.
fn gather(transport: &mut impl Transport, own: &[u8]) -> Vec<Vec<u8>> {
    let mut lengths = vec![0; 8 * transport.count()];
    transport.all_gather(&(own.len() as u64).to_le_bytes(), &mut lengths);
    let length = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes) as usize;
    let lengths: Vec<usize> = lengths.chunks(8).map(length).collect();
    let longest = lengths.iter().copied().max().unwrap_or(0).max(1);
    let (mut padded, mut all) = (own.to_vec(), vec![0; longest * lengths.len()]);
    padded.resize(longest, 0);
    transport.all_gather(&padded, &mut all);
    all.chunks(longest).zip(lengths).map(|(bytes, length)| bytes[..length].to_vec()).collect()
}

/// Bytes of a broadcast that travel at a time.
const BROADCAST_BYTES: usize = 16 << 20;

fn broadcast(transport: &mut impl Transport, from: usize, mut bytes: Vec<u8>) -> Vec<u8> {
    let mut length = (bytes.len() as u64).to_le_bytes();
    transport.broadcast(from, &mut length);
    bytes.resize(u64::from_le_bytes(length) as usize, 0);
    bytes.chunks_mut(BROADCAST_BYTES).for_each(|piece| transport.broadcast(from, piece));
    bytes
}
