// column_sum: partial[s, c] = sum of x[r, c] over the rows r of strip s, a thread per column. Reference: src/ops/column_sum.rs
//
//   x (ROWS, C)    partial (strips, C): this dispatch writes its rows from FIRST_STRIP on
// use: index
const ROWS: u32 = 64u;
const C: u32 = 64u;
const STRIP_ROWS: u32 = 64u;
const FIRST_STRIP: u32 = 0u;

const BLOCKS: u32 = (C + 63u) / 64u;

// Element type of x.
alias X_TYPE = f32;

@group(0) @binding(0) var<storage, read> x: array<X_TYPE>;
@group(0) @binding(1) var<storage, read_write> partial_sums: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let group = workgroup_index(id, count);
    let first = group / BLOCKS * STRIP_ROWS;
    let column = group % BLOCKS * 64u + thread;
    if first >= ROWS || column >= C {
        return;
    }
    var sum = 0.0;
    for (var row = first; row < min(first + STRIP_ROWS, ROWS); row++) {
        sum += f32(x[row * C + column]);
    }
    partial_sums[(FIRST_STRIP + group / BLOCKS) * C + column] = sum;
}
