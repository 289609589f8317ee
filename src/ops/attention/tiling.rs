//! The ways to run the kernels of attention: through workgroup memory on GPUs, in registers where lanes are SIMD, and, f16 only,
//! on cooperative matrices; with which blocks of rows, and which of them a device can run.

use super::Size;
use crate::graph::{Dtype, Limits, Shader};

/// A tiling of one of the shaders: a variant.
pub(in crate::ops) struct Tiling {
    pub name: String,
    pub shader: Shader,
    pub constants: Vec<(&'static str, usize)>,
    /// Rows (queries, or keys in the kernel over keys) per workgroup.
    pub block: usize,
    /// Shared files that stand in for others.
    pub swaps: Vec<(&'static str, &'static str)>,
}

/// A kernel of attention: its shaders, and what they hold.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Kernel {
    pub tiled: Shader,
    /// Tiles of rows that stay in workgroup memory beside those that pass.
    pub held: usize,
    pub registers: Shader,
    /// For f16 on devices that have cooperative matrices.
    pub cooperative: Shader,
    /// Whether a workgroup owns keys, rather than queries.
    pub over_keys: bool,
}

/// More workgroup memory than this leaves too few workgroups at a time on a GPU's core.
const SHARED_BYTES: u64 = 40 << 10;

impl Kernel {
    /// All its tilings on this kind of adapter, the best guess first.
    pub fn tilings(&self, size: Size, limits: &Limits) -> Vec<Tiling> {
        let mut all = match limits.register_lanes() {
            Some(lanes) => self.in_registers(size, lanes),
            None => self.through_workgroup_memory(size.hs, limits),
        };
        // Never the guess: a device has to show that they are right first.
        all.extend(self.on_cooperative_matrices(size, limits));
        all
    }

    /// The tiling that was chosen for a class.
    pub fn tiling(&self, class: &str, size: Size, limits: &Limits) -> Tiling {
        let mut tilings = self.tilings(size, limits);
        let names: Vec<String> = tilings.iter().map(|t| t.name.clone()).collect();
        tilings.swap_remove(limits.choices.pick(class, &names))
    }

    /// Rows that workgroups share out.
    fn rows(&self, size: Size) -> usize {
        if self.over_keys { size.keys } else { size.t }
    }

    /// Rows in the registers of a lane. Two share each read of what passes; more, or two of a wide head, compile for many seconds.
    fn in_registers(&self, size: Size, lanes: usize) -> Vec<Tiling> {
        let most = if size.hs <= 64 { 2 } else { 1 };
        let most = most.min(self.rows(size).div_ceil(lanes));
        let tiling = |rows| Tiling {
            name: format!("registers {rows}"),
            shader: self.registers,
            constants: vec![("ROWS", rows), ("LANES", lanes)],
            block: lanes * rows,
            swaps: vec![],
        };
        (1..=most).rev().map(tiling).collect()
    }

    /// Tilings whose workgroup memory fits.
    fn through_workgroup_memory(&self, hs: usize, limits: &Limits) -> Vec<Tiling> {
        let columns = hs / 4;
        // Threads that share a row divide its columns evenly where they can.
        let tx = (4..=10).rev().find(|tx| columns.is_multiple_of(*tx)).unwrap_or(8);
        let most = limits.workgroup_bytes.min(SHARED_BYTES);
        let fits = |&(tx, ty, rows): &(usize, usize, usize)| {
            let (block, pitch) = (ty * rows, columns | 1);
            let vectors = (self.held * block + 4 * tx) * pitch + block * (tx | 1);
            let size_bytes = 16 * vectors + 4 * block * tx;
            size_bytes as u64 <= most && tx * ty <= limits.invocations as usize
        };
        // More rows per thread save reads of workgroup memory; more threads hide latency; fewer keys at a time save memory.
        let shapes = [(16, 4), (12, 4), (16, 2), (8, 2), (8, 1)];
        let mut across = vec![tx, tx.div_ceil(2), tx.div_ceil(4)];
        across.dedup();
        let list = across.into_iter().flat_map(|tx| shapes.map(|(ty, rows)| (tx, ty, rows)));
        let tiling = |(tx, ty, rows)| Tiling {
            name: format!("tiled {tx}x{ty} {rows}"),
            shader: self.tiled,
            constants: vec![("TX", tx), ("TY", ty), ("ROWS", rows)],
            block: ty * rows,
            swaps: vec![],
        };
        let all: Vec<Tiling> = list.filter(fits).take(MOST_TILINGS).map(tiling).collect();
        assert!(!all.is_empty(), "a tiling for 16 KiB, which every device offers");
        all
    }

    /// Tilings on cooperative matrices, f16 summed in f32, where the device has them and a head is a whole number of them wide.
    fn on_cooperative_matrices(&self, size: Size, limits: &Limits) -> Vec<Tiling> {
        let side = limits.cooperative;
        if size.dtype != Dtype::F16 || side == 0 || !size.hs.is_multiple_of(side) {
            return vec![];
        }
        // A device with subgroups of several sizes runs the kernel with one of these.
        let lanes = if limits.subgroup > 0 { vec![limits.subgroup] } else { vec![32, 64] };
        let most = limits.workgroup_bytes.min(SHARED_BYTES);
        let fits = |c: &Cooperative| c.bytes(self.held) <= most && c.threads() <= limits.invocations as usize;
        let blocks = BLOCKS.into_iter().filter(|[owned, _]| *owned < 2 * self.rows(size).max(32));
        let all = blocks.filter_map(|block| Cooperative::new(block, size.hs, side, 32));
        let all = all.flat_map(|c| lanes.iter().map(move |lanes| Cooperative { lanes: *lanes, ..c }));
        all.filter(fits).map(|c| c.tiling(self.cooperative)).collect()
    }
}

/// Of those that fit the later ones are for devices where the first do not.
const MOST_TILINGS: usize = 4;

/// Rows that a workgroup on cooperative matrices owns, and rows that pass at a time.
const BLOCKS: [[usize; 2]; 4] = [[64, 32], [32, 32], [32, 64], [16, 32]];

/// A tiling on cooperative matrices: blocks of rows, matrices of a result for each subgroup.
#[derive(Clone, Copy)]
struct Cooperative {
    owned: usize,
    passing: usize,
    /// Matrices of a subgroup down and across, and how many subgroups that makes.
    tm: usize,
    tn: usize,
    parts: usize,
    lanes: usize,
    hs: usize,
    side: usize,
}

impl Cooperative {
    /// The squarest shares of a block's result that make close to four.
    fn new([owned, passing]: [usize; 2], hs: usize, side: usize, lanes: usize) -> Option<Cooperative> {
        let shares = (1..=2).flat_map(|tm| (1..=4).map(move |tn| (tm, tn)));
        let whole = |(tm, tn): &(usize, usize)| owned.is_multiple_of(tm * side) && hs.is_multiple_of(tn * side);
        let parts = |(tm, tn): (usize, usize)| owned / (tm * side) * (hs / (tn * side));
        let best = shares.filter(whole).min_by_key(|s| (parts(*s).abs_diff(4), s.0.abs_diff(s.1)));
        best.map(|(tm, tn)| Cooperative { owned, passing, tm, tn, parts: parts((tm, tn)), lanes, hs, side })
    }

    fn threads(&self) -> usize {
        self.parts * self.lanes
    }

    /// Bytes of workgroup memory for a kernel that holds so many tiles of rows: them, rows that pass, weights, sums.
    fn bytes(&self, held: usize) -> u64 {
        let rows = (held * self.owned + self.passing) * (self.hs + 8) + self.owned * (self.passing + 8);
        let sums = (self.owned * (self.passing + 4)).max(self.parts * self.side * (self.side + 4));
        // At most eight shares of what a row reduces, and a factor.
        (2 * rows + 4 * sums + 4 * 9 * self.owned + 16) as u64
    }

    fn tiling(&self, shader: Shader) -> Tiling {
        let Cooperative { owned, passing, tm, tn, lanes, .. } = *self;
        Tiling {
            name: format!("cooperative {owned}x{passing} {tm}x{tn} of {lanes}"),
            shader,
            constants: vec![("OWNED", owned), ("PASSING", passing), ("TM", tm), ("TN", tn), ("LANES", lanes)],
            block: owned,
            swaps: if self.side == 8 { vec![("cooperative_heads_16", "cooperative_heads_8")] } else { vec![] },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::FORWARD;
    use super::*;
    use crate::graph::AdapterKind;

    #[test]
    fn every_head_size_has_a_tiling_on_the_smallest_device() {
        let limits = Limits::portable(AdapterKind::Gpu);
        for (hs, held) in (4..=128).step_by(4).flat_map(|hs| [(hs, 1), (hs, 2)]) {
            let tilings = Kernel { held, ..FORWARD }.through_workgroup_memory(hs, &limits);
            assert!(tilings.iter().all(|t| t.block >= 8));
        }
    }
}
