//! What a device allows a dispatch, and how work is cut so that it fits.

use super::Choices;
use std::ops::Range;
use std::sync::Arc;

/// The kind of adapter that kernels are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AdapterKind {
    /// Workgroup memory is fast and a barrier is cheap.
    Gpu,
    /// A CPU behind a graphics API: a barrier is a coroutine switch, workgroup memory is plain memory, lanes are SIMD.
    Software,
}

/// Limits of a dispatch. Plain numbers, so that plans are made and tested without a device.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    pub adapter: AdapterKind,
    /// `max_storage_buffer_binding_size`.
    pub binding_bytes: u64,
    /// `max_buffer_size`.
    pub buffer_bytes: u64,
    /// `max_compute_workgroups_per_dimension`.
    pub workgroups: u32,
    /// `max_compute_invocations_per_workgroup`.
    pub invocations: u32,
    /// `max_compute_workgroup_storage_size`.
    pub workgroup_bytes: u64,
    /// `min_storage_buffer_offset_alignment`.
    pub alignment_bytes: u64,
    /// Lanes of a subgroup, where they can be shuffled and are always as many; otherwise 0.
    pub subgroup: usize,
    /// Side of cooperative matrices, f16 summed in f32: 16 or 8; 0 where there are none.
    pub cooperative: usize,
    /// Which variants to run, where ops have several.
    pub choices: Arc<Choices>,
    /// Whether shaders can compute and store half-precision numbers.
    pub f16: bool,
}

impl Limits {
    /// The limits that every WebGPU implementation offers.
    pub fn portable(adapter: AdapterKind) -> Self {
        Limits {
            adapter,
            binding_bytes: 128 << 20,
            buffer_bytes: 256 << 20,
            workgroups: 65535,
            invocations: 256,
            workgroup_bytes: 16384,
            alignment_bytes: 256,
            subgroup: 0,
            cooperative: 0,
            choices: Arc::default(),
            f16: false,
        }
    }

    /// Folds `count` workgroups into two dimensions. The shader unfolds with `workgroup_index` and drops the overhang. Where
    /// two dimensions do not hold them, the second is beyond its limit, and the kernel is not planned.
    pub fn fold(&self, count: usize) -> [u32; 3] {
        let y = count.div_ceil(self.workgroups as usize).max(1);
        [count.div_ceil(y), y, 1].map(|groups| u32::try_from(groups).unwrap_or(u32::MAX))
    }

    /// Threads per workgroup for kernels that reduce a row together: a small one where a barrier is expensive.
    pub fn row_threads(&self) -> u32 {
        match self.adapter {
            AdapterKind::Gpu => 64,
            AdapterKind::Software => 8,
        }
    }

    /// Lanes of a subgroup where kernels run in registers (`_registers`): on software adapters whose lanes can shuffle values, four at least.
    pub fn register_lanes(&self) -> Option<usize> {
        let lanes = Some(self.subgroup).filter(|lanes| *lanes >= 4 && lanes.is_power_of_two());
        lanes.filter(|_| self.adapter == AdapterKind::Software)
    }

    /// FLOPs of one trial when variants are measured: some milliseconds on a slow device of the kind.
    pub fn trial_flops(&self) -> u64 {
        match self.adapter {
            AdapterKind::Gpu => 1 << 34,
            AdapterKind::Software => 1 << 29,
        }
    }

    /// Cuts `rows` rows of `row_bytes` into ranges whose bytes fit one binding and start aligned. Where not even the fewest
    /// rows that start aligned fit, all of them are one range, and a kernel that binds it is not planned.
    pub fn row_chunks(&self, rows: usize, row_bytes: u64) -> Vec<Range<usize>> {
        let fit = (self.binding_bytes / row_bytes.max(1)) as usize;
        if fit >= rows {
            return std::iter::once(0..rows).collect();
        }
        // A multiple of that many rows starts aligned whatever the length of a row, and holds whole strips of 64 rows. Where no
        // more fit, half as many will do for f32 and for rows of an even number of f16.
        let (halves, words) = (self.alignment_bytes as usize / 2, self.alignment_bytes as usize / 4);
        let step = if fit >= halves || row_bytes % 4 == 2 { halves } else { words }.max(64);
        ranges(rows, fit / step * step)
    }

    /// As [`Limits::row_chunks`], of a few long entries: ranges of any number of them that start aligned.
    pub fn entry_chunks(&self, entries: usize, entry_bytes: u64) -> Vec<Range<usize>> {
        let fit = (self.binding_bytes / entry_bytes.max(1)) as usize;
        if fit >= entries {
            return std::iter::once(0..entries).collect();
        }
        // An alignment is a power of two.
        let step = (self.alignment_bytes >> entry_bytes.trailing_zeros()).max(1) as usize;
        ranges(entries, fit / step * step)
    }
}

/// Ranges of `size` of `count` things; all of them where that is 0.
fn ranges(count: usize, size: usize) -> Vec<Range<usize>> {
    let size = if size > 0 { size } else { count.max(1) };
    (0..count).step_by(size).map(|start| start..count.min(start + size)).collect()
}
