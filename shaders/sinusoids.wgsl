// sinusoids: sin | cos of distance * frequency, a thread per pair. Reference: src/ops/sinusoids.rs
//
//   table (LEN / HALF, 2 HALF); distances from MOST on are MOST
// use: index cos_sin
const LEN: u32 = 256u;
const HALF: u32 = 2u;
const MOST: u32 = 1024u;
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
    let row = i / HALF;
    var frequencies = FREQUENCIES;
    let values = cos_sin(f32(min(row, MOST)) * frequencies[i % HALF]);
    table[row * 2u * HALF + i % HALF] = values.y;
    table[row * 2u * HALF + HALF + i % HALF] = values.x;
}
