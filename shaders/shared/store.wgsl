// Epilogue of a matmul: C = A B, or C += A B.
fn store(row: u32, column: u32, value: f32) {
    let i = row * LDC + C_COLUMN + column;
    if ACCUMULATE {
        c[i] += value;
    } else {
        c[i] = value;
    }
}
