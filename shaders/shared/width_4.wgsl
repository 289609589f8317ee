// A matmul's epilogue stores the numbers of C in fours: its rows and pieces start and end at multiples of four.
// use: values
const WIDTH: u32 = 4u;
const_assert N % 4u == 0u && LDC % 4u == 0u && C_COLUMN % 4u == 0u;

alias STORED = vec4<C_TYPE>;

// Columns `column` to `column + 3` of a row of C, if it has them.
fn store_quad(row: u32, column: u32, quad: vec4<f32>) {
    if N % BN == 0u || column < N {
        store(row, column, quad);
    }
}
