// adamw: m, v <- averages of g and g^2; p <- p (1 - lr decay) - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps).
//
//   parameter, gradient, exp_avg (m), exp_avg_sq (v) of one length, all in place    report (8): see global_norm
//
// Four elements per thread. The gradient is scaled by the clip factor and set to 0. A step reported as bad changes nothing else.
// Reference: src/ops/adamw.rs
// use: index step
const BETA1: f32 = 0.9;
const BETA2: f32 = 0.95;
const ONE_MINUS_BETA1: f32 = 0.1;
const ONE_MINUS_BETA2: f32 = 0.05;
const LN_BETA1: f32 = -0.10536052;
const LN_BETA2: f32 = -0.05129329;
const EPS: f32 = 1e-8;
const WEIGHT_DECAY: f32 = 0.1;
const RATE: f32 = 1.0;

@group(0) @binding(0) var<storage, read_write> parameter: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> gradient: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> exp_avg: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> exp_avg_sq: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> report: array<u32>;
@group(0) @binding(5) var<uniform> step: Step;

// 1 - e^x for x <= 0, without cancellation near 0.
fn one_minus_exp(x: f32) -> f32 {
    if x > -0.1 {
        return -x * (1.0 + x * (0.5 + x * (0.16666667 + x * (0.041666668 + x * 0.008333334))));
    }
    return 1.0 - exp(max(x, -80.0));
}

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = workgroup_index(id, count) * 256u + thread;
    // The length is asked for, not a constant: one pipeline serves all groups of parameters that decay alike.
    if i >= arrayLength(&parameter) {
        return;
    }
    if report[3] == 0u {
        let t = f32(report[4]);
        let g = gradient[i] * bitcast<f32>(report[2]);
        let m = BETA1 * exp_avg[i] + ONE_MINUS_BETA1 * g;
        let v = BETA2 * exp_avg_sq[i] + ONE_MINUS_BETA2 * g * g;
        let m_hat = m / one_minus_exp(t * LN_BETA1);
        let v_hat = v / one_minus_exp(t * LN_BETA2);
        let learning_rate = step.learning_rate * RATE;
        let p = parameter[i] * (1.0 - learning_rate * WEIGHT_DECAY);
        parameter[i] = p - learning_rate * m_hat / (sqrt(v_hat) + EPS);
        exp_avg[i] = m;
        exp_avg_sq[i] = v;
    }
    gradient[i] = vec4<f32>();
}
