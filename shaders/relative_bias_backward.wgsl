// relative_bias_backward: dtable[b, h] = sum of dbias[h, d] over the distances of bucket b, in order, a thread per element.
// Reference: src/ops/relative_bias.rs
//
//   dbias (NH, DISTANCES)    dtable (BUCKETS, NH), LEN in all
// use: index buckets
const LEN: u32 = 2u;
const NH: u32 = 1u;

@group(0) @binding(0) var<storage, read> dbias: array<f32>;
@group(0) @binding(1) var<storage, read_write> dtable: array<f32>;

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
    let n = i / NH % SIDE;
    // The lengths of the bucket, of one sign.
    let first = i32(STARTS[n]);
    let last = i32(select(STARTS[min(n + 1u, SIDE - 1u)], f32(DISTANCES), n + 1u == SIDE)) - 1;
    var low = -last;
    var high = -first;
    if i / NH >= SIDE {
        low = max(first, 1);
        high = last;
    } else if !BOTH && n == 0u {
        // All keys after the query.
        high = i32(DISTANCES);
    }
    low = max(low, -i32(KEYS - 1u));
    high = min(high, i32(DISTANCES - KEYS));
    var sum = 0.0;
    for (var relative = low; relative <= high; relative++) {
        sum += dbias[i % NH * DISTANCES + u32(relative + i32(KEYS - 1u))];
    }
    dtable[i] = sum;
}
