// attention_cached_combine: y = sum of the splits' values over the sum of their weights, each rescaled to the common maximum;
// a thread per vec4 of y. Reference: src/ops/attention_cached.rs
//
//   parts (LEN / HV heads of all rows, SPLITS, HS + 4): values, maximum, sum    positions (rows)    y (LEN) vec4
//
// use: index window
const LEN: u32 = 256u;
const T: u32 = 64u;
const NH: u32 = 1u;
const HS: u32 = 64u;
const WINDOW: u32 = T;
const SPLIT: u32 = 64u;
const SPLITS: u32 = 1u;

const HV: u32 = HS / 4u;

@group(0) @binding(0) var<storage, read> parts: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> positions: array<u32>;

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
    let start = i / HV * SPLITS * (HV + 1u);
    let position = positions[i / (NH * HV)];
    // Wrapped: a query that sees no key.
    if position + 1u == 0u {
        y[i] = vec4<f32>();
        return;
    }
    // The first split with a key that the query sees.
    let first = first_key(position) / SPLIT;
    var most = parts[start + first * (HV + 1u) + HV].x;
    var sum = parts[start + first * (HV + 1u) + HV].y;
    var values = parts[start + first * (HV + 1u) + i % HV];
    for (var s = first + 1u; s <= position / SPLIT; s++) {
        let part = start + s * (HV + 1u);
        let seen = parts[part + HV];
        let larger = max(most, seen.x);
        values = values * exp(most - larger) + parts[part + i % HV] * exp(seen.x - larger);
        sum = sum * exp(most - larger) + seen.y * exp(seen.x - larger);
        most = larger;
    }
    y[i] = values / sum;
}
