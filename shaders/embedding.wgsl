// embedding: y[row, c] = wte[ids[row], c] + wpe[position + row % T, c], a thread per element,
// which is a number, or a quad where C is a multiple of four; C and LEN count elements.
//
//   ids (rows) u32    wte (TOKENS, C): tokens FIRST_TOKEN.. of the table    wpe (positions, C)    y (LEN / C, C): rows FIRST_ROW..
//
// The shared file brings wpe; others in its place, a position for each row, or nothing.
// A table beyond one binding takes several dispatches; each writes the rows whose token it holds. Reference: src/ops/embedding.rs
// use: index values position_learned
const LEN: u32 = 256u;
const C: u32 = 64u;
const T: u32 = 64u;
const FIRST_ROW: u32 = 0u;
const FIRST_TOKEN: u32 = 0u;
const TOKENS: u32 = 64u;

@group(0) @binding(0) var<storage, read> ids: array<u32>;
@group(0) @binding(1) var<storage, read> wte: array<VALUES>;
@group(0) @binding(2) var<storage, read_write> y: array<VALUES>;

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
    let row = FIRST_ROW + i / C;
    // Below the first token this wraps to a number beyond any table.
    let token = ids[row] - FIRST_TOKEN;
    if token < TOKENS {
        y[i] = wte[token * C + i % C] + position(row, i % C);
    }
}
