// embedding_backward_position: dwpe[t, c] += sum over b of dy[b, t, c], a thread per element of dwpe.
//
//   dy (DY_ROWS, C): rows FIRST_ROW.. of (B, T)    dwpe (positions, C), of which T are used    LEN = T * C
//
// Columns are numbers, or quads where their number is a multiple of four; C and LEN count them. Reference: src/ops/embedding.rs
// use: index values
const LEN: u32 = 256u;
const C: u32 = 64u;
const T: u32 = 64u;
const FIRST_ROW: u32 = 0u;
const DY_ROWS: u32 = 64u;

@group(0) @binding(0) var<storage, read> dy: array<VALUES>;
@group(0) @binding(1) var<storage, read_write> dwpe: array<VALUES>;

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
    var sum = VALUES(0.0);
    // The first row of this piece at position t.
    for (var row = (i / C + T - FIRST_ROW % T) % T; row < DY_ROWS; row += T) {
        sum += dy[row * C + i % C];
    }
    dwpe[i] += sum;
}
