// fill: y = VALUE, one number. Reference: src/ops/fill.rs
const VALUE: f32 = 1.0;

@group(0) @binding(0) var<storage, read_write> y: array<f32>; // (1)

@compute @workgroup_size(1)
fn main() {
    y[0] = VALUE;
}
