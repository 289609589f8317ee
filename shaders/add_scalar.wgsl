// add_scalar: sums[INDEX] += value. Reference: src/ops/scalars.rs
//
//   value (1)    sums (n), in place
const INDEX: u32 = 0u;

@group(0) @binding(0) var<storage, read> value: array<f32>;
@group(0) @binding(1) var<storage, read_write> sums: array<f32>;

@compute @workgroup_size(1)
fn main() {
    sums[INDEX] += value[0];
}
