// rope: turns pairs of columns of the first HEADS heads of each row by the angles of the row's position, in place; a thread per
// two pairs. Backward is the same by the negative angle. Reference: src/ops/rope.rs
//
//   x (LEN / (HEADS * HS / 4), COLUMNS): rows FIRST.. of the tensor    table (T, HS): cos | sin, of the rows in turn
// use: index
const LEN: u32 = 256u;
const FIRST: u32 = 0u;
const T: u32 = 64u;
const HEADS: u32 = 1u;
const HS: u32 = 64u;
const COLUMNS: u32 = 64u;
const INVERSE: bool = false;

// Half a head in vec2.
const HALF: u32 = HS / 4u;
const_assert HS % 4u == 0u && COLUMNS % 2u == 0u;

// Element type of x.
alias X_TYPE = f32;

@group(0) @binding(0) var<storage, read> table: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read_write> x: array<vec2<X_TYPE>>;

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
    let row = i / (HEADS * HALF);
    let angle = (FIRST + row) % T * 2u * HALF + i % HALF;
    let cosine = table[angle];
    let sine = select(table[angle + HALF], -table[angle + HALF], INVERSE);
    let at = row * (COLUMNS / 2u) + i / HALF % HEADS * 2u * HALF + i % HALF;
    let low = vec2<f32>(x[at]);
    let high = vec2<f32>(x[at + HALF]);
    x[at] = vec2<X_TYPE>(low * cosine - high * sine);
    x[at + HALF] = vec2<X_TYPE>(high * cosine + low * sine);
}
