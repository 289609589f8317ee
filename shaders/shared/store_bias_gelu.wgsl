// Epilogue of a matmul: pre = A B + bias is kept for backward, C = gelu(pre).
// use: gelu width_1

// Element type of C and pre.
alias C_TYPE = f32;

@group(0) @binding(3) var<storage, read> bias: array<VALUES>; // (N)
@group(0) @binding(4) var<storage, read_write> pre: array<STORED>; // (M, N)

fn store(row: u32, column: u32, value: VALUES) {
    let i = (row * LDC + C_COLUMN + column) / WIDTH;
    var sum = value;
    if ACCUMULATE {
        sum += VALUES(pre[i]);
    } else {
        sum += bias[(C_COLUMN + column) / WIDTH];
    }
    let kept = STORED(sum);
    pre[i] = kept;
    c[i] = STORED(gelu(VALUES(kept)));
}
