//! Ranks that end: each rank looks after the others of its machine, and ends with them.

use std::time::{Duration, Instant};

use sysinfo::{Pid, ProcessRefreshKind, ProcessStatus, ProcessesToUpdate, System};

/// How long a rank that has nothing to send waits before it looks after the others.
pub const IDLE: Duration = Duration::from_millis(25);
/// Time between two looks at the processes of this machine.
const EVERY: Duration = Duration::from_millis(100);

/// Ends this process with an exit code: says the sentence first, where there is one.
pub type OnEnd = Box<dyn Fn(Option<&str>, u8) + Send>;

/// What a rank watches.
pub struct Watch {
    rank: usize,
    /// Ranks of this machine and their processes.
    peers: Vec<(usize, u32)>,
    looked: Instant,
    /// None where the operating system does not tell.
    system: Option<System>,
    on_end: OnEnd,
}

impl Watch {
    pub fn new(rank: usize, on_end: OnEnd) -> Watch {
        Watch { rank, peers: vec![], looked: Instant::now(), system: System::new().ok(), on_end }
    }

    pub fn set(&mut self, peers: Vec<(usize, u32)>) {
        self.peers = peers;
    }

    /// Ends this process where another of this machine is gone. The lowest rank that is left says so.
    pub fn look(&mut self) {
        let Some(system) = self.system.as_mut().filter(|_| !self.peers.is_empty() && self.looked.elapsed() >= EVERY)
        else {
            return;
        };
        self.looked = Instant::now();
        let ids: Vec<Pid> = self.peers.iter().map(|(_, process)| Pid::from_u32(*process)).collect();
        let nothing = ProcessRefreshKind::nothing();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&ids), true, nothing);
        let lives = |process: u32| {
            let ended = [ProcessStatus::Zombie, ProcessStatus::Dead];
            system.process(Pid::from_u32(process)).is_some_and(|process| !ended.contains(&process.status()))
        };
        let Some((gone, process)) = self.peers.iter().find(|(_, process)| !lives(*process)) else { return };
        let below = (0..self.rank).all(|lower| self.peers.iter().any(|(rank, id)| *rank == lower && !lives(*id)));
        let sentence = format!(
            "rank {gone} (process {process}) has ended, and with it the run: go on from its last checkpoint with --resume"
        );
        self.end(below.then_some(&sentence), 1);
    }

    /// Another rank has said that it fails, and why.
    pub fn told(&self, rank: usize, why: &str, code: u8) {
        let sentence = format!("rank {rank}: {why}");
        self.end((self.rank == 0 && !why.is_empty()).then_some(&sentence), code);
    }

    fn end(&self, sentence: Option<&String>, code: u8) {
        if sentence.is_none() {
            // Whoever says it comes first: mpirun ends the others as soon as one has.
            std::thread::sleep(Duration::from_secs(2));
        }
        (self.on_end)(sentence.map(String::as_str), code);
    }
}
