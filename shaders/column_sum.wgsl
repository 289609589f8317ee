// column_sum: partial[s, c] = sum of x[r, c] over the rows r of strip s, a thread per column, or per quad of them where C is a
// multiple of four; C counts those. Reference: src/ops/column_sum.rs
//
//   x (ROWS, C)    partial (strips, C): this dispatch writes its rows from FIRST_STRIP on
// use: index values
const ROWS: u32 = 64u;
const C: u32 = 64u;
const STRIP_ROWS: u32 = 64u;
const FIRST_STRIP: u32 = 0u;

const BLOCKS: u32 = (C + 63u) / 64u;
// Rows that are read before the first of them is waited for.
const AHEAD: u32 = 8u;

// Type of x.
alias X_TYPE = f32;

@group(0) @binding(0) var<storage, read> x: array<X_TYPE>;
@group(0) @binding(1) var<storage, read_write> partial_sums: array<VALUES>;

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
    let end = min(first + STRIP_ROWS, ROWS);
    var sum = VALUES(0.0);
    for (var row = first; row < end; row += AHEAD) {
        var read: array<VALUES, AHEAD>;
        for (var i = 0u; i < AHEAD; i++) {
            // Past the end the last row repeats, and counts as 0.
            read[i] = select(VALUES(0.0), VALUES(x[min(row + i, end - 1u) * C + column]), row + i < end);
        }
        for (var i = 0u; i < AHEAD; i++) {
            sum += read[i];
        }
    }
    partial_sums[(FIRST_STRIP + group / BLOCKS) * C + column] = sum;
}
