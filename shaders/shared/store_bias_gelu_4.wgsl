// Epilogue of a matmul: pre = A B + bias is kept for backward, C = gelu(pre), in fours.
// use: gelu width_4

// Element type of C and pre.
alias C_TYPE = f32;

@group(0) @binding(3) var<storage, read> bias: array<SUMS>; // (N)
@group(0) @binding(4) var<storage, read_write> pre: array<STORED>; // (M, N)

fn store(row: u32, column: u32, value: SUMS) {
    let i = (row * LDC + C_COLUMN + column) / WIDTH;
    var sum = value;
    if ACCUMULATE {
        sum += SUMS(pre[i]);
    } else {
        sum += bias[(C_COLUMN + column) / WIDTH];
    }
    let kept = STORED(sum);
    pre[i] = kept;
    let x = SUMS(kept);
    c[i] = STORED(SUMS(gelu(x.x), gelu(x.y), gelu(x.z), gelu(x.w)));
}
