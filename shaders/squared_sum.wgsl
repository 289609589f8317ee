// squared_sum: the sum of squares of elements i * ELEMENTS .. of gradients, one workgroup each; where it is not finite, also
// which of their places, of 64 elements each, holds the largest.
//
//   gradients, whose length is asked for so that one pipeline serves all    squares (part of the model's list): u32 bits of sum, place
//
// Reference: src/ops/global_norm.rs
// use: index reduce
const ELEMENTS: u32 = 16384u;
const THREADS: u32 = 64u;

const QUADS: u32 = ELEMENTS / 4u;

@group(0) @binding(0) var<storage, read> gradients: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> squares: array<vec2<u32>>;

// The quad with the largest magnitude by its bits, where NaN is above infinity and both are above all else.
fn largest(first: u32, end: u32) -> u32 {
    var found = first;
    var most = 0u;
    for (var i = first; i < end; i++) {
        let bits = gradients[i] & vec4<u32>(0x7fffffffu);
        let own = max(max(bits.x, bits.y), max(bits.z, bits.w));
        if own > most {
            most = own;
            found = i;
        }
    }
    return found;
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let group = workgroup_index(id, count);
    let len = arrayLength(&gradients);
    if group >= (len + QUADS - 1u) / QUADS {
        return;
    }
    let end = min(len, (group + 1u) * QUADS);
    var sums = vec4<f32>();
    for (var i = group * QUADS + thread; i < end; i += THREADS) {
        let g = bitcast<vec4<f32>>(gradients[i]);
        sums += g * g;
    }
    let sum = bitcast<u32>(workgroup_sum((sums.x + sums.y) + (sums.z + sums.w), thread));
    if thread == 0u {
        var place = 0u;
        if (sum & 0x7f800000u) == 0x7f800000u {
            place = (largest(group * QUADS, end) - group * QUADS) / 16u;
        }
        squares[group] = vec2<u32>(sum, place);
    }
}
