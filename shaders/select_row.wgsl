// select_row: y[b, c] = x[b, position, c], a thread per element of y. Reference: src/ops/select_row.rs
//
//   x (ROWS, C): rows FIRST_ROW.. of (B, T)    y (B, C), LEN = B * C
//
// A tensor beyond one binding takes several dispatches; each writes the rows that it holds.
// use: index step
const LEN: u32 = 256u;
const C: u32 = 64u;
const T: u32 = 64u;
const FIRST_ROW: u32 = 0u;
const ROWS: u32 = 64u;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
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
    // Below the first row this wraps to a number beyond any row.
    let row = i / C * T + step.position - FIRST_ROW;
    if row < ROWS {
        y[i] = x[row * C + i % C];
    }
}
