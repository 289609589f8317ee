//! Ranks on MPI, as `mpirun` starts them. The one file that knows MPI.
//!
//! Calls do not block: a rank that waits for others sleeps between its looks, so that it leaves their cores alone, and sees where
//! one of them has ended.

use std::time::{Duration, Instant};

use ::mpi::Threading;
use ::mpi::environment::Universe;
use ::mpi::request::{Request, Scope, scope};
use ::mpi::topology::SimpleCommunicator;
use ::mpi::traits::*;

use super::Transport;
use super::watch::{OnEnd, Watch};
use crate::error::{Error, Result};

/// The tag of messages that say why a rank fails.
const FAILURE: i32 = 1;
/// The tag of values that are exchanged.
const VALUES: i32 = 2;
/// Bytes of a message of values: few enough that MPI sends them at once (Open MPI up to 64 KiB over TCP, with its header). Of a larger
/// message it asks the receiver first, and on a slow network that question waits behind all values that are queued.
const MESSAGE: usize = 60 << 10;
/// How long a rank that fails waits until the others have taken note.
const PATIENCE: Duration = Duration::from_secs(5);
/// Looks without a pause, then the pause between two.
const EAGER: usize = 20;
const PAUSE: Duration = Duration::from_micros(50);

/// The ranks of one `mpirun`.
pub struct Mpi {
    /// Ends MPI when it is dropped.
    universe: Universe,
    watch: Watch,
}

impl Mpi {
    /// To be called by the thread that uses it.
    pub fn start(on_end: OnEnd) -> Result<Mpi> {
        let Some((universe, _)) = ::mpi::initialize_with_threading(Threading::Funneled) else {
            return Err(Error::Device("MPI is in use already: start one run per process".into()));
        };
        let watch = Watch::new(universe.world().rank() as usize, on_end);
        Ok(Mpi { universe, watch })
    }

    fn world(&self) -> SimpleCommunicator {
        self.universe.world()
    }

    /// Waits for a request, and for the end of the process where another rank has ended.
    fn wait<'a, D: ?Sized, S: Scope<'a>>(&mut self, mut request: Request<'a, D, S>) {
        for looks in 0usize.. {
            match request.test() {
                Ok(_) => return,
                Err(still) => request = still,
            }
            if looks < EAGER {
                std::thread::yield_now();
            } else {
                std::thread::sleep(PAUSE);
                self.look();
            }
        }
    }

    /// Sends `to(rank)` to each other rank, and receives the parts of `all` from them, in the order of the ranks. Own parts are copied.
    fn exchange<'a>(&mut self, to: impl Fn(usize) -> &'a [u8], all: &mut [u8]) {
        let (world, own, count) = (self.world(), self.rank(), self.count());
        let size = all.len() / count;
        scope(|scope| {
            let (mut received, mut sent) = (vec![], vec![]);
            for (rank, part) in all.chunks_mut(size.max(1)).enumerate() {
                if rank == own {
                    part.copy_from_slice(to(rank));
                    continue;
                }
                let process = world.process_at_rank(rank as i32);
                let messages = part.chunks_mut(MESSAGE);
                received.extend(messages.map(|part| process.immediate_receive_into_with_tag(scope, part, VALUES)));
            }
            // Each rank begins with the one after it, so that not all send to the same one.
            for rank in (1..count).map(|step| (own + step) % count) {
                let process = world.process_at_rank(rank as i32);
                let messages = to(rank).chunks(MESSAGE);
                sent.extend(messages.map(|part| process.immediate_send_with_tag(scope, part, VALUES)));
            }
            received.into_iter().for_each(|request| self.wait(request));
            sent.into_iter().for_each(|request| self.wait(request));
        });
    }

    fn look(&mut self) {
        if let Some(message) = self.world().any_process().immediate_matched_probe_with_tag(FAILURE) {
            let (text, status) = message.matched_receive_vec::<u8>();
            let (code, why) = text.split_first().unwrap_or((&1, &[]));
            self.watch.told(status.source_rank() as usize, &String::from_utf8_lossy(why), *code);
        }
        self.watch.look();
    }
}

impl Transport for Mpi {
    fn rank(&self) -> usize {
        self.world().rank() as usize
    }

    fn count(&self) -> usize {
        self.world().size() as usize
    }

    fn all_to_all(&mut self, own: &[u8], all: &mut [u8]) {
        let size = own.len() / self.count();
        self.exchange(|rank| &own[rank * size..(rank + 1) * size], all);
    }

    fn all_gather(&mut self, own: &[u8], all: &mut [u8]) {
        self.exchange(|_| own, all);
    }

    fn broadcast(&mut self, from: usize, bytes: &mut [u8]) {
        let world = self.world();
        scope(|scope| self.wait(world.process_at_rank(from as i32).immediate_broadcast_into(scope, bytes)));
    }

    fn idle(&mut self) {
        self.look();
    }

    fn watch(&mut self, peers: Vec<(usize, u32)>) {
        self.watch.set(peers);
    }

    fn fail(&mut self, why: &str, code: u8) {
        let others = (0..self.count()).filter(|other| *other != self.rank());
        for other in others.collect::<Vec<_>>() {
            // The first rank says it; the others only end.
            let why = if other == 0 { why } else { "" };
            let text = [&[code], why.as_bytes()].concat();
            let (world, began) = (self.world(), Instant::now());
            // A message that is not taken stays under way: the process ends, and its memory with it.
            let text: &'static [u8] = text.leak();
            let mut request = world.process_at_rank(other as i32).immediate_synchronous_send_with_tag(
                ::mpi::request::StaticScope,
                text,
                FAILURE,
            );
            while let Err(still) = request.test() {
                request = still;
                // Two that fail at the same time do not wait for each other.
                let fails = world.process_at_rank(other as i32).immediate_probe_with_tag(FAILURE).is_some();
                if fails || began.elapsed() > PATIENCE {
                    std::mem::forget(request);
                    break;
                }
                std::thread::sleep(PAUSE);
            }
        }
    }
}
