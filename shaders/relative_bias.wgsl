// relative_bias: bias[h, d] = table[bucket of distance d, h], a thread per element. Reference: src/ops/relative_bias.rs
//
//   table (BUCKETS, NH)    bias (NH, DISTANCES), LEN in all
// use: index buckets
const LEN: u32 = 7u;
const NH: u32 = 1u;

@group(0) @binding(0) var<storage, read> table: array<f32>;
@group(0) @binding(1) var<storage, read_write> bias: array<f32>;

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
    let relative = i32(i % DISTANCES) - i32(KEYS - 1u);
    var length = select(-relative, relative, BOTH && relative > 0);
    length = max(length, 0);
    var bucket = 0u;
    for (var n = 1u; n < SIDE; n++) {
        if length >= i32(STARTS[n]) {
            bucket = n;
        }
    }
    if BOTH && relative > 0 {
        bucket += SIDE;
    }
    bias[i] = table[bucket * NH + i / DISTANCES];
}
