// Epilogue of a matmul: C = A B + bias + residual. Further pieces of K accumulate on the first, which adds both.
// use: width_1

// Element type of C.
alias C_TYPE = f32;

@group(0) @binding(3) var<storage, read> bias: array<VALUES>; // (N)
@group(0) @binding(4) var<storage, read> residual: array<VALUES>; // (M, N)

fn store(row: u32, column: u32, value: VALUES) {
    let i = (row * LDC + C_COLUMN + column) / WIDTH;
    if ACCUMULATE {
        c[i] = STORED(VALUES(c[i]) + value);
    } else {
        c[i] = STORED(value + bias[(C_COLUMN + column) / WIDTH] + residual[i]);
    }
}
