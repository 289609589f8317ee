// block_diagonal: y (ROWS, BLOCKS RANK) = SCALE times the blocks of x on a diagonal, zeros elsewhere, a thread per element.
// Reference: src/ops/block_diagonal.rs
//
//   x (all blocks' rows, RANK)    y, LEN in all
// use: index blocks
const LEN: u32 = 16u;
const SCALE: f32 = 1.0;

@group(0) @binding(0) var<storage, read> x: array<f32>;
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
    let row = i / (BLOCKS * RANK);
    let block = i % (BLOCKS * RANK) / RANK;
    let start = u32(STARTS[block]);
    var value = 0.0;
    if row >= start && row - start < u32(HEIGHTS[block]) {
        value = SCALE * x[(u32(OFFSETS[block]) + row - start) * RANK + i % RANK];
    }
    y[i] = value;
}
