// remember: memory = the last M positions of y, a thread per element. Reference: src/ops/segment_memory.rs
//
//   memory (SLOTS, B, M, C): the slot of the micro-batch, in place;  y (B, K, C)
// use: index step
const LEN: u32 = 256u;
const SLOTS: u32 = 1u;
const B: u32 = 1u;
const M: u32 = 64u;
const K: u32 = 128u;
const C: u32 = 64u;

@group(0) @binding(0) var<storage, read_write> memory: array<f32>;
@group(0) @binding(1) var<storage, read> y: array<f32>;
@group(0) @binding(2) var<uniform> step: Step;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = workgroup_index(id, count) * 256u + thread;
    if i >= LEN {
        return;
    }
    let first = step.micro_batch % SLOTS * B * M * C;
    memory[first + i] = y[i + (i / (M * C) + 1u) * (K - M) * C];
}
