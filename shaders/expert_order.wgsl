// expert_order: the stable sort of choices by expert: a thread walks the choices of one block and places those of one expert.
// Reference: src/ops/expert_groups.rs
//
//   ids (PAIRS) u32    before (BLOCKS, E) u32: rows of the same expert in earlier blocks    offsets (E + 1) u32
//   order (PAIRS) u32: the choice at each place    position (PAIRS) u32: the place of each choice
// use: index
const PAIRS: u32 = 256u;
const E: u32 = 8u;
const BLOCK: u32 = 256u;
const BLOCKS: u32 = 1u;

@group(0) @binding(0) var<storage, read> ids: array<u32>;
@group(0) @binding(1) var<storage, read> before: array<u32>;
@group(0) @binding(2) var<storage, read> offsets: array<u32>;
@group(0) @binding(3) var<storage, read_write> order: array<u32>;
@group(0) @binding(4) var<storage, read_write> position: array<u32>;

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
    var place = offsets[i % E] + before[i];
    for (var pair = first; pair < min(first + BLOCK, PAIRS); pair++) {
        if ids[pair] == i % E {
            order[place] = pair;
            position[pair] = place;
            place++;
        }
    }
}
