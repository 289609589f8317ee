// Epilogue of a matmul: C = A B + residual. Further pieces of K accumulate on the first, which adds the residual.

// Element type of C.
alias C_TYPE = f32;

@group(0) @binding(3) var<storage, read> residual: array<f32>; // (M, N)

fn store(row: u32, column: u32, value: f32) {
    let i = row * LDC + C_COLUMN + column;
    if ACCUMULATE {
        c[i] = C_TYPE(f32(c[i]) + value);
    } else {
        c[i] = C_TYPE(value + residual[i]);
    }
}
