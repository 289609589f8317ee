// Epilogue of a matmul: C = A B, or C += A B.
// use: width_1

// Element type of C.
alias C_TYPE = f32;

fn store(row: u32, column: u32, value: VALUES) {
    let i = (row * LDC + C_COLUMN + column) / WIDTH;
    if ACCUMULATE {
        c[i] = STORED(VALUES(c[i]) + value);
    } else {
        c[i] = STORED(value);
    }
}
