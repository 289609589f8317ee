// head_product_registers: y = FACTOR * op(a) op(b) for each head, without workgroup memory. For CPUs behind a graphics API.
//
//   a (M, NH, K), or (K, NH, M) if TA;  b (K, NH, N), or (N, NH, K) if TB;  y (M, NH, N)
//
// A workgroup makes 8 rows by 32 columns of one head, each of its 8 lanes four columns. Reference: src/ops/head_product.rs
// use: index
const M: u32 = 64u;
const N: u32 = 64u;
const K: u32 = 64u;
const NH: u32 = 1u;
const TA: bool = false;
const TB: bool = false;
const FACTOR: f32 = 1.0;

const ROWS: u32 = 8u;
const COLUMNS: u32 = 32u;
const TILES_M: u32 = (M + ROWS - 1u) / ROWS;
const TILES_N: u32 = (N + COLUMNS - 1u) / COLUMNS;

@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

// Past the end the last row or column repeats; it is not stored.
fn a_at(head: u32, row: u32, k: u32) -> f32 {
    let m = min(row, M - 1u);
    return a[select((m * NH + head) * K + k, (k * NH + head) * M + m, TA)];
}

fn b_at(head: u32, k: u32, column: u32) -> f32 {
    let n = min(column, N - 1u);
    return b[select((k * NH + head) * N + n, (n * NH + head) * K + k, TB)];
}

@compute @workgroup_size(8)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tile = workgroup_index(id, count);
    if tile >= NH * TILES_M * TILES_N {
        return;
    }
    let head = tile / (TILES_M * TILES_N);
    let m0 = tile / TILES_N % TILES_M * ROWS;
    let n0 = tile % TILES_N * COLUMNS + 4u * lane;
    var sums: array<vec4<f32>, ROWS>;
    for (var k = 0u; k < K; k++) {
        let right = vec4<f32>(
            b_at(head, k, n0),
            b_at(head, k, n0 + 1u),
            b_at(head, k, n0 + 2u),
            b_at(head, k, n0 + 3u),
        );
        for (var r = 0u; r < ROWS; r++) {
            sums[r] += a_at(head, m0 + r, k) * right;
        }
    }
    for (var r = 0u; r < ROWS; r++) {
        for (var c = 0u; c < 4u; c++) {
            if m0 + r < M && n0 + c < N {
                y[((m0 + r) * NH + head) * N + n0 + c] = sums[r][c] * FACTOR;
            }
        }
    }
}
