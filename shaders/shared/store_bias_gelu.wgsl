// Epilogue of a matmul: pre = A B + bias is kept for backward, C = gelu(pre).
// use: gelu
@group(0) @binding(3) var<storage, read> bias: array<f32>; // (N)
@group(0) @binding(4) var<storage, read_write> pre: array<f32>; // (M, N)

fn store(row: u32, column: u32, value: f32) {
    let i = row * LDC + C_COLUMN + column;
    var sum = value;
    if ACCUMULATE {
        sum += pre[i];
    } else {
        sum += bias[C_COLUMN + column];
    }
    pre[i] = sum;
    c[i] = gelu(sum);
}
