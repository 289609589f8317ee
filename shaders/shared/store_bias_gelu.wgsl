// Epilogue of a matmul: pre = A B + bias is kept for backward, C = gelu(pre).
// use: gelu width_1

// Element type of C and pre.
alias C_TYPE = f32;

@group(0) @binding(3) var<storage, read> bias: array<f32>; // (N)
@group(0) @binding(4) var<storage, read_write> pre: array<C_TYPE>; // (M, N)

fn store(row: u32, column: u32, value: f32) {
    let i = row * LDC + C_COLUMN + column;
    var sum = value;
    if ACCUMULATE {
        sum += f32(pre[i]);
    } else {
        sum += bias[C_COLUMN + column];
    }
    let kept = C_TYPE(sum);
    pre[i] = kept;
    c[i] = C_TYPE(gelu(f32(kept)));
}
