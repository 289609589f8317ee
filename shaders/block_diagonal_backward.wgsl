// block_diagonal_backward: dx (+)= SCALE times the blocks on the diagonal of dy, a thread per element of dx.
// Reference: src/ops/block_diagonal.rs
//
//   dy (ROWS, BLOCKS RANK)    dx (all blocks' rows, RANK), LEN in all
// use: index blocks
const LEN: u32 = 8u;
const SCALE: f32 = 1.0;
const ACCUMULATE: bool = false;

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
    // The last block that begins at or before the row.
    let row = i / RANK;
    var block = 0u;
    for (var n = 1u; n < BLOCKS; n++) {
        if row >= u32(OFFSETS[n]) {
            block = n;
        }
    }
    let place = u32(STARTS[block]) + row - u32(OFFSETS[block]);
    let value = SCALE * dy[place * BLOCKS * RANK + block * RANK + i % RANK];
    if ACCUMULATE {
        dx[i] += value;
    } else {
        dx[i] = value;
    }
}
