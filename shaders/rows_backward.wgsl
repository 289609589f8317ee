// rows_backward: dw's PART elements from FIRST on += dy, a thread for each; or all of dw, dy between zeros. Reference: src/ops/rows.rs
//
//   dy (R, C), PART = R C;  dw (W, C);  FIRST: a row's number times C
// use: index
const LEN: u32 = 256u;
const FIRST: u32 = 0u;
const PART: u32 = 256u;
const ACCUMULATE: bool = false;

@group(0) @binding(0) var<storage, read> dy: array<f32>;
@group(0) @binding(1) var<storage, read_write> dw: array<f32>;

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
    if ACCUMULATE {
        dw[FIRST + i] += dy[i];
    } else {
        // Before FIRST this wraps to a number beyond any.
        let place = i - FIRST;
        var value = 0.0;
        if place < PART {
            value = dy[place];
        }
        dw[i] = value;
    }
}
