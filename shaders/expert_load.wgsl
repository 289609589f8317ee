// expert_load: load[LAYER, e] += the rows of expert e, a thread per expert. Reference: src/ops/expert_load.rs
//
//   offsets (E + 1) u32    load (layers, E) u32, in place
// use: index
const E: u32 = 8u;
const LAYER: u32 = 0u;

@group(0) @binding(0) var<storage, read> offsets: array<u32>;
@group(0) @binding(1) var<storage, read_write> load: array<u32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let e = workgroup_index(id, count) * 64u + thread;
    if e < E {
        load[LAYER * E + e] += offsets[e + 1u] - offsets[e];
    }
}
