// embedding_backward: dwte[token] += dy summed over the token's positions, in their order: one workgroup per position, which
// walks the chain that starts there, if one does.
//
//   ids, next (ROWS) u32    dy (DY_ROWS, C): rows FIRST_ROW..    dwte (TOKENS, C): tokens FIRST_TOKEN..
//
// Columns are numbers, or quads where their number is a multiple of four; C counts them. Tables and gradients beyond one binding take several dispatches. Reference: src/ops/embedding.rs
// use: index values
const ROWS: u32 = 64u;
const C: u32 = 64u;
const FIRST_ROW: u32 = 0u;
const DY_ROWS: u32 = 64u;
const FIRST_TOKEN: u32 = 0u;
const TOKENS: u32 = 64u;
const THREADS: u32 = 64u;

@group(0) @binding(0) var<storage, read> ids: array<u32>;
@group(0) @binding(1) var<storage, read> next: array<u32>;
@group(0) @binding(2) var<storage, read> dy: array<VALUES>;
@group(0) @binding(3) var<storage, read_write> dwte: array<VALUES>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let first = workgroup_index(id, count);
    if first >= ROWS || next[min(first, ROWS - 1u)] < 0x80000000u {
        return;
    }
    let token = ids[first] - FIRST_TOKEN;
    if token >= TOKENS {
        return;
    }
    for (var c = thread; c < C; c += THREADS) {
        var sum = VALUES(0.0);
        var row = first;
        while row < ROWS {
            let local = row - FIRST_ROW;
            if local < DY_ROWS {
                sum += dy[local * C + c];
            }
            row = next[row] & 0x7fffffffu;
        }
        dwte[token * C + c] += sum;
    }
}
