// recall: y = memory | x, a thread per element. Reference: src/ops/segment_memory.rs
//
//   memory (SLOTS, B, M, C): the slot of the micro-batch;  x (B, T, C);  y (B, M + T, C)
// use: index step
const LEN: u32 = 256u;
const SLOTS: u32 = 1u;
const B: u32 = 1u;
const M: u32 = 64u;
const T: u32 = 64u;
const C: u32 = 64u;

@group(0) @binding(0) var<storage, read> memory: array<f32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<uniform> step: Step;

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
    let b = i / ((M + T) * C);
    let t = i / C % (M + T);
    if t < M {
        let row = step.micro_batch % SLOTS * B + b;
        y[i] = memory[(row * M + t) * C + i % C];
    } else {
        y[i] = x[(b * T + t - M) * C + i % C];
    }
}
