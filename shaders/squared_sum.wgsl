// squared_sum: partial[i] = sum of squares of elements i * ELEMENTS .. of a gradient, one workgroup each.
//
//   gradient, whose length is asked for so that one pipeline serves all tensors    partial (its place in the model's list). Reference: src/ops/global_norm.rs
// use: index reduce
const ELEMENTS: u32 = 16384u;
const THREADS: u32 = 64u;

@group(0) @binding(0) var<storage, read> gradient: array<f32>;
@group(0) @binding(1) var<storage, read_write> partial_sums: array<f32>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let group = workgroup_index(id, count);
    let len = arrayLength(&gradient);
    if group >= (len + ELEMENTS - 1u) / ELEMENTS {
        return;
    }
    var sum = 0.0;
    for (var i = group * ELEMENTS + thread; i < min(len, (group + 1u) * ELEMENTS); i += THREADS) {
        sum += gradient[i] * gradient[i];
    }
    sum = workgroup_sum(sum, thread);
    if thread == 0u {
        partial_sums[group] = sum;
    }
}
