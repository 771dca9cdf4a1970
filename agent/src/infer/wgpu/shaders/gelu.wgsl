// a times the normal distribution's share below a; the error function within 1.5e-7 (Abramowitz and Stegun, 7.1.26).
fn gelu(a: vec4<f32>) -> vec4<f32> {
    let z = abs(a) * 0.70710678;
    let t = 1.0 / (1.0 + 0.3275911 * z);
    let series = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
    let erf = 1.0 - series * exp(-z * z);
    return 0.5 * a * (1.0 + sign(a) * erf);
}
