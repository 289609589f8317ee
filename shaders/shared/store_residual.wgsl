// Epilogue of a matmul: C = A B + residual. Further pieces of K accumulate on the first, which adds the residual.
// use: width_1

// Element type of C.
alias C_TYPE = f32;

@group(0) @binding(3) var<storage, read> residual: array<VALUES>; // (M, N)

fn store(row: u32, column: u32, value: VALUES) {
    let i = (row * LDC + C_COLUMN + column) / WIDTH;
    if ACCUMULATE {
        c[i] = STORED(VALUES(c[i]) + value);
    } else {
        c[i] = STORED(value + residual[i]);
    }
}
