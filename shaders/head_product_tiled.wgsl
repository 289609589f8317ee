// head_product_tiled: y = FACTOR * op(a) op(b) for each head, through workgroup memory. For GPUs.
//
//   a (M, NH, K), or (K, NH, M) if TA;  b (K, NH, N), or (N, NH, K) if TB;  y (M, NH, N)
//
// A workgroup makes 32 x 32 elements of one head, each of its 64 threads 4 x 4 at distance 8, from 16 steps of K at a time.
// Reference: src/ops/head_product.rs
// use: index
const M: u32 = 64u;
const N: u32 = 64u;
const K: u32 = 64u;
const NH: u32 = 1u;
const TA: bool = false;
const TB: bool = false;
const FACTOR: f32 = 1.0;

const SIDE: u32 = 32u;
const STEPS: u32 = 16u;
// Odd, so that steps start in different banks.
const PITCH: u32 = SIDE + 1u;
const TILES_M: u32 = (M + SIDE - 1u) / SIDE;
const TILES_N: u32 = (N + SIDE - 1u) / SIDE;

@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

var<workgroup> a_tile: array<f32, STEPS * PITCH>; // (STEPS, SIDE)
var<workgroup> b_tile: array<f32, STEPS * PITCH>; // (STEPS, SIDE)

fn load(head: u32, m0: u32, n0: u32, k0: u32, thread: u32) {
    for (var e = thread; e < SIDE * STEPS; e += 64u) {
        // Neighbours read what stands side by side.
        let a_row = select(e / STEPS, e % SIDE, TA);
        let a_step = select(e % STEPS, e / SIDE, TA);
        let b_row = select(e % SIDE, e / STEPS, TB);
        let b_step = select(e / SIDE, e % STEPS, TB);
        var a_value = 0.0;
        var b_value = 0.0;
        if m0 + a_row < M && k0 + a_step < K {
            let k = k0 + a_step;
            let m = m0 + a_row;
            a_value = a[select((m * NH + head) * K + k, (k * NH + head) * M + m, TA)];
        }
        if n0 + b_row < N && k0 + b_step < K {
            let k = k0 + b_step;
            let n = n0 + b_row;
            b_value = b[select((k * NH + head) * N + n, (n * NH + head) * K + k, TB)];
        }
        a_tile[a_step * PITCH + a_row] = a_value;
        b_tile[b_step * PITCH + b_row] = b_value;
    }
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let tile = workgroup_index(id, count);
    if tile >= NH * TILES_M * TILES_N {
        return;
    }
    let head = tile / (TILES_M * TILES_N);
    let m0 = tile / TILES_N % TILES_M * SIDE;
    let n0 = tile % TILES_N * SIDE;
    let tx = thread % 8u;
    let ty = thread / 8u;
    var sums: array<vec4<f32>, 4>;
    for (var k0 = 0u; k0 < K; k0 += STEPS) {
        workgroupBarrier();
        load(head, m0, n0, k0, thread);
        workgroupBarrier();
        for (var s = 0u; s < STEPS; s++) {
            let at = s * PITCH + tx;
            let right = vec4<f32>(b_tile[at], b_tile[at + 8u], b_tile[at + 16u], b_tile[at + 24u]);
            for (var r = 0u; r < 4u; r++) {
                sums[r] += a_tile[s * PITCH + ty + 8u * r] * right;
            }
        }
    }
    for (var r = 0u; r < 4u; r++) {
        let m = m0 + ty + 8u * r;
        for (var c = 0u; c < 4u; c++) {
            let n = n0 + tx + 8u * c;
            if m < M && n < N {
                y[(m * NH + head) * N + n] = sums[r][c] * FACTOR;
            }
        }
    }
}
