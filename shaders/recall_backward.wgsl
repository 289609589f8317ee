// recall_backward: dx = dy without its first M positions, a thread per element. Reference: src/ops/segment_memory.rs
//
//   dy (B, M + T, C);  dx (B, T, C)
// use: index
const LEN: u32 = 256u;
const M: u32 = 64u;
const T: u32 = 64u;
const C: u32 = 64u;

@group(0) @binding(0) var<storage, read> dy: array<f32>;
@group(0) @binding(1) var<storage, read_write> dx: array<f32>;

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
    dx[i] = dy[i + (i / (T * C) + 1u) * M * C];
}
