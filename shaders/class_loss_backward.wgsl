// class_loss_backward: dscores = (exp(scores - lse) - onehot(target)) * weight * dloss / total, a thread per element.
//
//   scores, dscores (rows, CLASSES)    targets (rows) u32    weights, lse (rows)    total, dloss (1)
//
// Reference: src/ops/class_loss.rs
// use: index
const LEN: u32 = 256u;
const CLASSES: u32 = 2u;

@group(0) @binding(0) var<storage, read> scores: array<f32>;
@group(0) @binding(1) var<storage, read> targets: array<u32>;
@group(0) @binding(2) var<storage, read> weights: array<f32>;
@group(0) @binding(3) var<storage, read> lse: array<f32>;
@group(0) @binding(4) var<storage, read> total: array<f32>;
@group(0) @binding(5) var<storage, read> dloss: array<f32>;
@group(0) @binding(6) var<storage, read_write> dscores: array<f32>;

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
    let row = i / CLASSES;
    let hit = select(0.0, 1.0, i % CLASSES == targets[row]);
    let scale = weights[row] * dloss[0] / max(total[0], 1e-20);
    dscores[i] = (exp(scores[i] - lse[row]) - hit) * scale;
}
