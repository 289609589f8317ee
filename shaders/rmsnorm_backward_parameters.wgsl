// rmsnorm_backward_parameters: sums of dy * x * rstd (for dweight) over a strip of normalised groups, a thread per vec4 of
// columns. column_sum_final adds the strips. Reference: src/ops/rmsnorm.rs
//
//   x, dy (ROWS, GROUPS, C)    rstds (ROWS, COUNT)    sums (strips, C): written from row FIRST_STRIP on
// use: index
const ROWS: u32 = 64u;
const GROUPS: u32 = 1u;
const FIRST: u32 = 0u;
const COUNT: u32 = 1u;
const C: u32 = 64u;
const STRIP_ROWS: u32 = 64u;
const FIRST_STRIP: u32 = 0u;

// Vec4s of a group.
const CV: u32 = C / 4u;
const BLOCKS: u32 = (CV + 63u) / 64u;

// Element types of the operands.
alias X_TYPE = f32;
alias Y_TYPE = f32;

@group(0) @binding(0) var<storage, read> x: array<vec4<X_TYPE>>;
@group(0) @binding(1) var<storage, read> rstds: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<vec4<Y_TYPE>>;
@group(0) @binding(3) var<storage, read_write> sums: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let block = workgroup_index(id, count);
    let first = block / BLOCKS * STRIP_ROWS;
    let column = block % BLOCKS * 64u + thread;
    if first >= ROWS * COUNT || column >= CV {
        return;
    }
    var sum = vec4<f32>();
    for (var i = first; i < min(first + STRIP_ROWS, ROWS * COUNT); i++) {
        let at = (i / COUNT * GROUPS + FIRST + i % COUNT) * CV + column;
        sum += vec4<f32>(dy[at]) * vec4<f32>(x[at]) * rstds[i];
    }
    sums[(FIRST_STRIP + block / BLOCKS) * CV + column] = sum;
}
