// layernorm_backward_parameters: sums of dy * n (for dweight) and of dy (for dbias) over a strip of rows, a thread per vec4 of
// columns, with n = (x - mean) * rstd. column_sum_final adds the strips. Reference: src/ops/layernorm.rs
//
//   x, dy (ROWS, C)    stats (ROWS, 2)    weight_sums, bias_sums (strips, C): written from row FIRST_STRIP on
// use: index
const ROWS: u32 = 64u;
const C: u32 = 64u;
const STRIP_ROWS: u32 = 64u;
const FIRST_STRIP: u32 = 0u;

// Vec4s of a row.
const CV: u32 = C / 4u;
const_assert C % 4u == 0u;
const BLOCKS: u32 = (CV + 63u) / 64u;
// Rows that are read before the first of them is waited for.
const AHEAD: u32 = 4u;

// Element types of the operands.
alias X_TYPE = f32;
alias Y_TYPE = f32;

@group(0) @binding(0) var<storage, read> x: array<vec4<X_TYPE>>;
@group(0) @binding(1) var<storage, read> stats: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> dy: array<vec4<Y_TYPE>>;
@group(0) @binding(3) var<storage, read_write> weight_sums: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> bias_sums: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let group = workgroup_index(id, count);
    let first = group / BLOCKS * STRIP_ROWS;
    let column = group % BLOCKS * 64u + thread;
    if first >= ROWS || column >= CV {
        return;
    }
    let end = min(first + STRIP_ROWS, ROWS);
    var weight_sum = vec4<f32>();
    var bias_sum = vec4<f32>();
    for (var row = first; row < end; row += AHEAD) {
        var d: array<vec4<f32>, AHEAD>;
        var n: array<vec4<f32>, AHEAD>;
        for (var i = 0u; i < AHEAD; i++) {
            // Past the end the last row repeats, and counts as 0.
            let own = min(row + i, end - 1u);
            d[i] = select(vec4<f32>(), vec4<f32>(dy[own * CV + column]), row + i < end);
            n[i] = (vec4<f32>(x[own * CV + column]) - stats[own].x) * stats[own].y;
        }
        for (var i = 0u; i < AHEAD; i++) {
            weight_sum += d[i] * n[i];
            bias_sum += d[i];
        }
    }
    let at = (FIRST_STRIP + group / BLOCKS) * CV + column;
    weight_sums[at] = weight_sum;
    bias_sums[at] = bias_sum;
}
