// rows: y = LEN elements of w from FIRST on, a thread for each. Reference: src/ops/rows.rs
//
//   w (W, C);  y (R, C), LEN = R C;  FIRST: a row's number times C
// use: index
const LEN: u32 = 256u;
const FIRST: u32 = 0u;

@group(0) @binding(0) var<storage, read> w: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

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
    y[i] = w[FIRST + i];
}
