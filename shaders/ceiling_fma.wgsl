// ceiling_fma: eight independent chains x <- x a + b per thread: the peak of arithmetic.
//
//   x, y (LEN)    coefficients (2): a, b, which no compiler can know
//
// Chain j starts at x + j / 8 and is ROUNDS steps long; y is their sum. With the alias f16 it measures half precision.
// Reference: src/ops/ceiling.rs
// use: index
alias Real = f32;
const LEN: u32 = 256u;
const ROUNDS: u32 = 64u;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> coefficients: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = workgroup_index(id, count) * 256u + thread;
    if i >= LEN {
        return;
    }
    let a = vec4<Real>(Real(coefficients[0]));
    let b = vec4<Real>(Real(coefficients[1]));
    var low = vec4<Real>(Real(x[i])) + vec4<Real>(0.0, 0.125, 0.25, 0.375);
    var high = low + vec4<Real>(0.5);
    for (var round = 0u; round < ROUNDS; round += 8u) {
        low = low * a + b;
        high = high * a + b;
        low = low * a + b;
        high = high * a + b;
        low = low * a + b;
        high = high * a + b;
        low = low * a + b;
        high = high * a + b;
        low = low * a + b;
        high = high * a + b;
        low = low * a + b;
        high = high * a + b;
        low = low * a + b;
        high = high * a + b;
        low = low * a + b;
        high = high * a + b;
    }
    let sums = low + high;
    y[i] = f32(sums.x) + f32(sums.y) + f32(sums.z) + f32(sums.w);
}
