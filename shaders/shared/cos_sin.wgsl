// cos and sin of an angle in 0..2^24 radians.
//
// WGSL's own sin and cos may be off by 2^-11, and by anything beyond one turn. Here the angle, which is an f32 as in
// transformers, is cut to a part of a turn in integers: no rounding, and nothing that a compiler may fuse or reorder. (Payne and
// Hanek 1983, for angles below 2^24.) Then come the Taylor series of both within an eighth of a turn to either side.

// 2^64 / (2 pi): high and low word.
const TURNS: vec2<u32> = vec2<u32>(0x28be60dbu, 0x9391054au);
const RADIANS: f32 = 1.4629180792671596e-9; // 2 pi / 2^32

// High and low word of a * b.
fn product(a: u32, b: u32) -> vec2<u32> {
    let low = (a & 0xffffu) * (b & 0xffffu);
    let left = (a >> 16u) * (b & 0xffffu);
    let right = (a & 0xffffu) * (b >> 16u);
    let middle = (low >> 16u) + (left & 0xffffu) + (right & 0xffffu);
    return vec2<u32>((a >> 16u) * (b >> 16u) + (left >> 16u) + (right >> 16u) + (middle >> 16u), a * b);
}

// The part of a turn, in units of 2^-32, that an angle in 0..2^24 radians leaves over.
fn turn(angle: f32) -> u32 {
    let bits = bitcast<u32>(angle);
    // angle = mantissa / 2^shift. Where it is below 2^-40, its exponent does not matter: the result is 0.
    let mantissa = (bits & 0x7fffffu) | 0x800000u;
    let shift = 150u - (bits >> 23u);
    // Words 1 and 2 of mantissa * TURNS; word 0 is behind the point whatever the shift.
    let high = product(mantissa, TURNS.x);
    let low = product(mantissa, TURNS.y);
    let word_1 = high.y + low.x;
    let word_2 = high.x + select(0u, 1u, word_1 < high.y);
    if shift == 0u {
        return word_1;
    }
    if shift < 32u {
        return (word_1 >> shift) | (word_2 << (32u - shift));
    }
    return select(0u, word_2 >> (shift - 32u), shift < 64u);
}

fn cos_sin(angle: f32) -> vec2<f32> {
    let part = turn(angle);
    let quadrant = (part + 0x20000000u) >> 30u;
    let x = f32(bitcast<i32>(part - (quadrant << 30u))) * RADIANS;
    let z = x * x;
    let c = 1.0 + z * (-0.5 + z * (0.041666667 + z * (-0.0013888889 + z * (2.4801587e-5 - z * 2.7557319e-7))));
    let s = x + x * z * (-0.16666667 + z * (0.0083333333 + z * (-1.9841270e-4 + z * 2.7557319e-6)));
    let turned = select(vec2<f32>(c, s), vec2<f32>(-s, c), (quadrant & 1u) == 1u);
    return select(turned, -turned, (quadrant & 2u) == 2u);
}
