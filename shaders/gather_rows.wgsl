// gather_rows: y[i, c] = x[rows[FIRST + i], c], 0 where x has no such row; a thread per element,
// which is a number, or a quad where C is a multiple of four; C and LEN count elements.
//
//   x (ROWS, C): rows FIRST_ROW.. of ALL_ROWS    rows u32    y (LEN / C, C): rows FIRST..
//
// An x beyond one binding takes several dispatches; each writes the rows it holds. Reference: src/ops/gather_rows.rs
// use: index values
const LEN: u32 = 256u;
const C: u32 = 64u;
const FIRST: u32 = 0u;
const FIRST_ROW: u32 = 0u;
const ROWS: u32 = 64u;
const ALL_ROWS: u32 = 64u;

@group(0) @binding(0) var<storage, read> x: array<VALUES>;
@group(0) @binding(1) var<storage, read> rows: array<u32>;
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
    let row = rows[FIRST + i / C];
    // Below the first row this wraps to a number beyond any x.
    let held = row - FIRST_ROW;
    if held < ROWS {
        y[i] = x[held * C + i % C];
    } else if row >= ALL_ROWS {
        y[i] = VALUES(0.0);
    }
}
