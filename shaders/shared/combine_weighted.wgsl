// The weight of a choice, from the router.
@group(0) @binding(3) var<storage, read> weights: array<f32>;

fn weight(pair: u32) -> f32 {
    return weights[pair];
}
