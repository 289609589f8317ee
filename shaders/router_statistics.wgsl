// router_statistics: sums over a strip of a layer's tokens: of each expert's probability and of the squared log-sum-exp; and how
// many of the layer's choices each expert got, in the row of its first strip. One workgroup per strip.
//
//   logits (ROWS, E)    offsets (E + 1) u32    sums (strips, 2E + 1), from row FIRST_STRIP on: probabilities, choices, squares
//
// Reference: src/ops/router_losses.rs
// use: index
const ROWS: u32 = 256u;
const E: u32 = 8u;
const STRIP_ROWS: u32 = 256u;
const FIRST_STRIP: u32 = 0u;
const THREADS: u32 = 64u;

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> offsets: array<u32>;
@group(0) @binding(2) var<storage, read_write> sums: array<f32>;

var<workgroup> lse: array<f32, STRIP_ROWS>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let strip = workgroup_index(id, count);
    let first = strip * STRIP_ROWS;
    if first >= ROWS {
        return;
    }
    let rows = min(STRIP_ROWS, ROWS - first);
    for (var r = thread; r < rows; r += THREADS) {
        var largest = -3.4e38;
        for (var e = 0u; e < E; e++) {
            largest = max(largest, logits[(first + r) * E + e]);
        }
        var sum = 0.0;
        for (var e = 0u; e < E; e++) {
            sum += exp(logits[(first + r) * E + e] - largest);
        }
        lse[r] = largest + log(sum);
    }
    workgroupBarrier();
    let out = (FIRST_STRIP + strip) * (2u * E + 1u);
    for (var e = thread; e <= E; e += THREADS) {
        var sum = 0.0;
        for (var r = 0u; r < rows; r++) {
            if e < E {
                sum += exp(logits[(first + r) * E + e] - lse[r]);
            } else {
                sum += lse[r] * lse[r];
            }
        }
        if e < E {
            sums[out + e] = sum;
            sums[out + E + e] = select(0.0, f32(offsets[e + 1u] - offsets[e]), strip == 0u);
        } else {
            sums[out + 2u * E] = sum;
        }
    }
}
