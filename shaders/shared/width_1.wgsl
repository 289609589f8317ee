// A matmul's epilogue stores the numbers of C one by one.
// use: values
const WIDTH: u32 = 1u;

alias STORED = C_TYPE;

// Columns `column` to `column + 3` of a row of C, those that it has.
fn store_quad(row: u32, column: u32, quad: vec4<f32>) {
    for (var e = 0u; e < 4u; e++) {
        if column + e < N {
            store(row, column + e, quad[e]);
        }
    }
}
