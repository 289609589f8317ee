// Epilogue of a matmul: C = A B, or C += A B.

// Element type of C.
alias C_TYPE = f32;

fn store(row: u32, column: u32, value: f32) {
    let i = row * LDC + C_COLUMN + column;
    if ACCUMULATE {
        c[i] = C_TYPE(f32(c[i]) + value);
    } else {
        c[i] = C_TYPE(value);
    }
}
