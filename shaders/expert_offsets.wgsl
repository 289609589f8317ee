// expert_offsets: where each expert's rows begin once they are sorted, and within them those of each block: running sums of
// counts, in one workgroup. Reference: src/ops/expert_groups.rs
//
//   counts (BLOCKS, E) u32, in place: rows of the same expert in earlier blocks    offsets (E + 1) u32
const E: u32 = 8u;
const BLOCKS: u32 = 1u;
const THREADS: u32 = 64u;

@group(0) @binding(0) var<storage, read_write> counts: array<u32>;
@group(0) @binding(1) var<storage, read_write> offsets: array<u32>;

var<workgroup> totals: array<u32, E>;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32) {
    for (var e = thread; e < E; e += THREADS) {
        var sum = 0u;
        for (var block = 0u; block < BLOCKS; block++) {
            let found = counts[block * E + e];
            counts[block * E + e] = sum;
            sum += found;
        }
        totals[e] = sum;
    }
    workgroupBarrier();
    if thread == 0u {
        var sum = 0u;
        for (var e = 0u; e < E; e++) {
            offsets[e] = sum;
            sum += totals[e];
        }
        offsets[E] = sum;
    }
}
