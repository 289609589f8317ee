// rope_table: cos | sin of position * frequency, a thread per pair. Reference: src/ops/rope.rs
//
//   table (LEN / HALF, 2 HALF), rows FIRST.. of the tensor
//
// The shared file says the position of a row.
//
// use: index row_positions cos_sin
const LEN: u32 = 256u;
const FIRST: u32 = 0u;
const HALF: u32 = 2u;
// In radians per position.
const FREQUENCIES: array<f32, HALF> = array(1.0f, 0.01f);

@group(0) @binding(0) var<storage, read_write> table: array<f32>;

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
    var frequencies = FREQUENCIES;
    let row = i / HALF;
    let values = cos_sin(f32(row_position(FIRST + row)) * frequencies[i % HALF]);
    table[row * 2u * HALF + i % HALF] = values.x;
    table[row * 2u * HALF + HALF + i % HALF] = values.y;
}
