//! The ways to run a matmul: shaders, shapes of tiles, and which of them a device can run.

use crate::graph::{AdapterKind, Limits, Quantisation, Shader};
use crate::shader;

/// A tiling of one of the shaders: a variant.
pub(super) struct Tiling {
    pub name: String,
    pub shader: Shader,
    pub constants: Vec<(&'static str, usize)>,
    /// Rows and columns of C per workgroup.
    pub tile: (usize, usize),
    /// The shared files through which it loads quads: where rows start at multiples of four, and anywhere.
    pub loads: (&'static str, &'static str),
    /// Whether quads wait in its registers, in a type of their own.
    pub quads: bool,
    /// Whether sums leave for C in fours.
    fours: bool,
    threads: usize,
    workgroup_bytes: usize,
    /// Side of its cooperative matrices; 0 where it has none.
    side: usize,
}

/// Rows up to which a product is bound by reading B.
const FEW_ROWS: usize = 8;

/// Shapes of tiles that win somewhere: rows, columns and depth of a workgroup's, rows and columns of a thread's.
const SHAPES: [[usize; 5]; 9] = [
    [128, 128, 8, 8, 8],
    [128, 128, 16, 8, 8],
    [128, 64, 16, 8, 4],
    [64, 128, 16, 4, 8],
    [64, 64, 16, 4, 4],
    [64, 64, 32, 4, 4],
    [64, 64, 16, 8, 8],
    [32, 64, 32, 4, 4],
    [32, 32, 32, 4, 4],
];

/// The same for cooperative matrices: rows, columns and depth of a workgroup's, matrices of a subgroup's down and across.
const COOPERATIVE: [[usize; 5]; 7] = [
    [128, 128, 32, 4, 4],
    [128, 128, 32, 4, 2],
    [256, 128, 32, 4, 4],
    [128, 64, 32, 4, 2],
    [64, 128, 32, 2, 4],
    [64, 64, 32, 2, 2],
    [64, 64, 32, 4, 4],
];

impl Tiling {
    /// Through workgroup memory: tiles of `bm` x `bn`, `bk` deep, `tm` x `tn` per thread.
    fn tiled([bm, bn, bk, tm, tn]: [usize; 5]) -> Tiling {
        Tiling {
            constants: vec![("BM", bm), ("BN", bn), ("BK", bk), ("TM", tm), ("TN", tn)],
            tile: (bm, bn),
            threads: bm / tm * (bn / tn),
            workgroup_bytes: 4 * bk * (bm + bn + 8),
            quads: true,
            fours: true,
            ..Tiling::of(shader!("matmul_tiled"), format!("tiled {bm}x{bn}x{bk} {tm}x{tn}"))
        }
    }

    /// Without workgroup memory, where lanes of a subgroup can exchange values.
    fn registers(tm: usize, lanes: usize) -> Tiling {
        Tiling {
            constants: vec![("TM", tm), ("LANES", lanes)],
            tile: (tm, 4 * lanes),
            threads: lanes,
            fours: true,
            ..Tiling::of(shader!("matmul_registers"), format!("registers {tm}"))
        }
    }

    /// For few rows, where reading B is all that counts.
    fn vector(m: usize, across: usize, slices: usize) -> Tiling {
        Tiling {
            constants: vec![("ACROSS", across), ("SLICES", slices)],
            tile: (m, 4 * across),
            threads: across * slices,
            workgroup_bytes: 16 * across * slices * m.min(4),
            fours: true,
            ..Tiling::of(shader!("matmul_vector"), format!("vector {across}x{slices}"))
        }
    }

    /// On cooperative matrices of `side` x `side`: `tm` x `tn` of them for each subgroup of `lanes`.
    fn cooperative([bm, bn, bk, tm, tn]: [usize; 5], side: usize, lanes: usize) -> Tiling {
        let parts = bm / (tm * side) * (bn / (tn * side));
        // Slices as they are stored, each row 16 bytes longer; and a matrix of sums for each part.
        let slice = |edge: usize| 2 * (edge * (bk + 8)).max(bk * (edge + 8));
        Tiling {
            constants: vec![("BM", bm), ("BN", bn), ("BK", bk), ("TM", tm), ("TN", tn), ("LANES", lanes)],
            tile: (bm, bn),
            loads: ("operands", "operands_unaligned"),
            threads: parts * lanes,
            workgroup_bytes: slice(bm) + slice(bn) + parts * side * (side + 4) * 4,
            side,
            ..Tiling::of(shader!("matmul_cooperative"), format!("cooperative {bm}x{bn}x{bk} {tm}x{tn} of {lanes}"))
        }
    }

    fn of(shader: Shader, name: String) -> Tiling {
        Tiling {
            name,
            shader,
            constants: vec![],
            tile: (1, 1),
            loads: ("quads", "quads_unaligned"),
            quads: false,
            fours: false,
            threads: 1,
            workgroup_bytes: 0,
            side: 0,
        }
    }

    /// Shared files that stand in for others, for a product of m x n in rows of C of length `ldc` from column `column` on;
    /// `plain` means that its sums go to an f32 C as they are.
    pub fn swaps(&self, plain: bool, [m, n, ldc, column]: [usize; 4]) -> Vec<(&'static str, &'static str)> {
        let mut swaps = vec![];
        if self.side == 8 {
            swaps.push(("cooperative_16", "cooperative_8"));
        }
        let whole = m.is_multiple_of(self.tile.0) && n.is_multiple_of(self.tile.1);
        let aligned = ldc.is_multiple_of(4) && column.is_multiple_of(4);
        if self.side > 0 && plain && whole && aligned {
            swaps.push(("sums_staged", "sums_direct"));
        }
        if self.fours && aligned && n.is_multiple_of(4) {
            swaps.push(("width_1", "width_4"));
        }
        swaps
    }

    /// All tilings for an M x N product on this kind of adapter, the best guess first; `half` where A and B are f16.
    pub fn candidates((m, n): (usize, usize), ta: bool, half: bool, limits: &Limits) -> Vec<Tiling> {
        let few_rows = m <= FEW_ROWS && !ta;
        let mut all = vec![];
        match (limits.adapter, limits.register_lanes()) {
            // On lavapipe 8 rows reach three quarters of the speed of 16; 32 gain a fifth on one version and lose one on
            // another, and compile for twice as long.
            (_, Some(lanes)) => {
                let rows = if m <= 16 { vec![m] } else { vec![16, 8, 32] };
                all.extend(rows.into_iter().map(|tm| Tiling::registers(tm, lanes)));
            }
            (AdapterKind::Software, None) if few_rows => all.push(Tiling::vector(m, 8, 1)),
            (AdapterKind::Gpu, None) if few_rows => {
                // Wide enough that a row of B is read in whole cache lines, narrow enough that a large GPU has work
                // everywhere.
                let guess = [16, 8].into_iter().find(|across| n.div_ceil(4 * across) >= 128).unwrap_or(4);
                let others = [4, 8, 16, 32].into_iter().filter(|across| *across != guess);
                all.extend(std::iter::once(guess).chain(others).map(|across| Tiling::vector(m, across, 256 / across)));
            }
            (kind, None) => all.extend(Tiling::through_workgroup_memory(m, n, kind)),
        }
        // Never the guess: a device has to show that they are right first.
        if half && !few_rows {
            all.extend(Tiling::on_cooperative_matrices(m, n, limits));
        }
        // Each list has a tiling that every device can run.
        all.retain(|t| t.threads <= limits.invocations as usize && t.workgroup_bytes as u64 <= limits.workgroup_bytes);
        all
    }

    fn through_workgroup_memory(m: usize, n: usize, kind: AdapterKind) -> Vec<Tiling> {
        // The largest tile that still leaves enough workgroups to fill a large GPU; of two, the second has slices that fit the
        // workgroup memory of every device. In deeper ones each thread has a block to fetch, and half as many barriers.
        let guesses = match m.div_ceil(128) * n.div_ceil(128) {
            tiles if tiles >= 128 => [[128, 128, 16, 8, 8], [128, 128, 8, 8, 8]],
            _ if m.min(n) > 32 => [[64, 64, 32, 4, 4], [64, 64, 16, 4, 4]],
            _ => [[32, 32, 32, 4, 4]; 2],
        };
        let guesses = match kind {
            AdapterKind::Gpu if guesses[0] != guesses[1] => &guesses[..],
            _ => &guesses[1..],
        };
        let others = SHAPES.into_iter().filter(|shape| suits(shape, m, n) && !guesses.contains(shape));
        guesses.iter().copied().chain(others).map(Tiling::tiled).collect()
    }

    fn on_cooperative_matrices(m: usize, n: usize, limits: &Limits) -> Vec<Tiling> {
        let side = limits.cooperative;
        if side == 0 {
            return vec![];
        }
        // A device with subgroups of several sizes runs the kernel with one of these.
        let lanes = if limits.subgroup > 0 { vec![limits.subgroup] } else { vec![32, 64] };
        let divides = |[bm, bn, bk, tm, tn]: [usize; 5], lanes: usize| {
            let parts = bm / (tm * side) * (bn / (tn * side));
            let whole = bm.is_multiple_of(tm * side) && bn.is_multiple_of(tn * side) && bk.is_multiple_of(side);
            whole && [bm, bn].iter().all(|edge| (edge * bk).is_multiple_of(4 * parts * lanes))
        };
        let shapes = COOPERATIVE.into_iter().filter(|shape| suits(shape, m, n));
        let all = shapes.flat_map(|shape| lanes.iter().map(move |lanes| (shape, *lanes)));
        all.filter(|(shape, lanes)| divides(*shape, *lanes)).map(|(s, l)| Tiling::cooperative(s, side, l)).collect()
    }
}

/// The shared shader file that dequantises B.
pub(super) fn dequantising(quantisation: Quantisation) -> &'static str {
    match quantisation {
        Quantisation::F16 => "quads_f16",
        Quantisation::Q8_0 => "quads_q8_0",
        Quantisation::Q4_0 => "quads_q4_0",
    }
}

/// Whether a tile is not much larger than the product.
fn suits([bm, bn, ..]: &[usize; 5], m: usize, n: usize) -> bool {
    *bm < 2 * m.max(32) && *bn < 2 * n.max(32)
}
