// expert_count: counts[b, e] = how many of the choices of block b are expert e, a thread per count. Reference:
// src/ops/expert_groups.rs
//
//   ids (PAIRS) u32    counts (blocks, E) u32
// use: index
const PAIRS: u32 = 256u;
const E: u32 = 8u;
const BLOCK: u32 = 256u;
const BLOCKS: u32 = 1u;

@group(0) @binding(0) var<storage, read> ids: array<u32>;
@group(0) @binding(1) var<storage, read_write> counts: array<u32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = workgroup_index(id, count) * 64u + thread;
    if i >= BLOCKS * E {
        return;
    }
    let first = i / E * BLOCK;
    var found = 0u;
    for (var pair = first; pair < min(first + BLOCK, PAIRS); pair++) {
        found += select(0u, 1u, ids[pair] == i % E);
    }
    counts[i] = found;
}
