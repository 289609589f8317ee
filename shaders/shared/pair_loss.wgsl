// The loss of a pair's difference, and its derivative.
//
// Forms: 0 RIGHT * -log s(BETA delta) + WRONG * -log s(-BETA delta), 1 hinge, 2 ipo.
const FORM: u32 = 0u;
const BETA: f32 = 1.0;
const RIGHT: f32 = 1.0;
const WRONG: f32 = 0.0;

/// log(1 + e^x), without overflow.
fn softplus(x: f32) -> f32 {
    return max(x, 0.0) + log(1.0 + exp(-abs(x)));
}

fn sigmoid(x: f32) -> f32 {
    let e = exp(-abs(x));
    return select(e, 1.0, x >= 0.0) / (1.0 + e);
}

fn pair_loss(delta: f32) -> f32 {
    if FORM == 1u {
        return max(1.0 - BETA * delta, 0.0);
    }
    if FORM == 2u {
        let by = delta - 0.5 / BETA;
        return by * by;
    }
    return RIGHT * softplus(-BETA * delta) + WRONG * softplus(BETA * delta);
}

fn pair_gradient(delta: f32) -> f32 {
    if FORM == 1u {
        return select(0.0, -BETA, BETA * delta < 1.0);
    }
    if FORM == 2u {
        return 2.0 * (delta - 0.5 / BETA);
    }
    return BETA * (WRONG * sigmoid(BETA * delta) - RIGHT * sigmoid(-BETA * delta));
}
