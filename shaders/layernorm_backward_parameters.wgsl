// layernorm_backward_parameters: sums of dy * n (for dweight) and of dy (for dbias) over a strip of rows, a thread per
// column, with n = (x - mean) * rstd. column_sum_final adds the strips. Reference: src/ops/layernorm.rs
//
//   x, dy (ROWS, C)    stats (ROWS, 2)    weight_sums, bias_sums (strips, C): written from row FIRST_STRIP on
// use: index
const ROWS: u32 = 64u;
const C: u32 = 64u;
const STRIP_ROWS: u32 = 64u;
const FIRST_STRIP: u32 = 0u;

const BLOCKS: u32 = (C + 63u) / 64u;

// Element types of the operands.
alias X_TYPE = f32;
alias Y_TYPE = f32;

@group(0) @binding(0) var<storage, read> x: array<X_TYPE>;
@group(0) @binding(1) var<storage, read> stats: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<Y_TYPE>;
@group(0) @binding(3) var<storage, read_write> weight_sums: array<f32>;
@group(0) @binding(4) var<storage, read_write> bias_sums: array<f32>;

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
    var weight_sum = 0.0;
    var bias_sum = 0.0;
    for (var row = first; row < min(first + STRIP_ROWS, ROWS); row++) {
        let d = f32(dy[row * C + column]);
        weight_sum += d * (f32(x[row * C + column]) - stats[2u * row]) * stats[2u * row + 1u];
        bias_sum += d;
    }
    let at = (FIRST_STRIP + group / BLOCKS) * C + column;
    weight_sums[at] = weight_sum;
    bias_sums[at] = bias_sum;
}
