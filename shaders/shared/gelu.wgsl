// GELU and its derivative, of one number or of four. GELU_ERF false: 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))); true: x Phi(x).
// use: values
const GELU_ERF: bool = false;
const SQRT_2_OVER_PI: f32 = 0.7978845608;

// Arguments are clamped: some drivers' tanh and exp overflow to NaN, and tanh(15) is 1 in f32 anyway.
fn gelu_tanh_part(x: VALUES) -> VALUES {
    return tanh(clamp(SQRT_2_OVER_PI * (x + 0.044715 * x * x * x), VALUES(-15.0), VALUES(15.0)));
}

// The normal distribution function, from the complementary error function by Abramowitz and Stegun 7.1.26 (|error| <= 1.5e-7).
fn normal_cdf(x: VALUES) -> VALUES {
    let z = abs(x) * 0.7071067812;
    let t = 1.0 / (1.0 + 0.3275911 * z);
    let poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    let upper = 0.5 * poly * exp(-min(z * z, VALUES(80.0)));
    return select(upper, 1.0 - upper, x >= VALUES(0.0));
}

fn gelu(x: VALUES) -> VALUES {
    if GELU_ERF {
        return x * normal_cdf(x);
    }
    return 0.5 * x * (1.0 + gelu_tanh_part(x));
}

fn gelu_derivative(x: VALUES) -> VALUES {
    if GELU_ERF {
        return normal_cdf(x) + x * 0.3989422804 * exp(-min(0.5 * x * x, VALUES(80.0)));
    }
    let t = gelu_tanh_part(x);
    return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * SQRT_2_OVER_PI * (1.0 + 3.0 * 0.044715 * x * x);
}
