// The values that change from replay to replay. Host side: graph::Step.
struct Step {
    step: u32,
    micro_batch: u32,
    seed: u32,
    learning_rate: f32,
    position: u32,
    row: u32,
    growth: f32,
    reserved: u32,
}
