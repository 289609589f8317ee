// The ratio of a policy to the one that drew a token, and whether its advantage leaves the range in which it counts.
const LOW: f32 = 0.8;
const HIGH: f32 = 1.2;

fn is_clipped(ratio: f32, advantage: f32) -> bool {
    return (ratio < LOW && advantage < 0.0) || (ratio > HIGH && advantage > 0.0);
}
