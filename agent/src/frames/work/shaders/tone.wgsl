// High dynamic range for an ordinary screen. See colour.rs, which this repeats.
struct Params { count: u32, peak: f32, most: f32, knee: f32, white: f32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;

const M1 = 0.15930176;
const M2 = 78.84375;
const C1 = 0.8359375;
const C2 = 18.851563;
const C3 = 18.6875;

fn nits_of_pq(value: f32) -> f32 {
    let power = pow(clamp(value, 0.0, 1.0), 1.0 / M2);
    return 10000.0 * pow(max(power - C1, 0.0) / (C2 - C3 * power), 1.0 / M1);
}

fn pq_of_nits(nits: f32) -> f32 {
    let power = pow(clamp(nits / 10000.0, 0.0, 1.0), M1);
    return pow((C1 + C2 * power) / (1.0 + C3 * power), M2);
}

fn scene_of_hlg(given: f32) -> f32 {
    let value = clamp(given, 0.0, 1.0);
    let bright = (exp((value - 0.5599107) / 0.17883277) + 0.28466892) / 12.0;
    return select(bright, value * value / 3.0, value <= 0.5);
}

fn encode(light: f32) -> f32 {
#if srgb
    return select(1.055 * pow(light, 1.0 / 2.4) - 0.055, 12.92 * light, light <= 0.0031308);
#else
    return pow(light, 1.0 / 2.4);
#end
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (id.y * grid.x + id.x) * 256u + lane;
    if (i >= p.count) { return; }
    let pixel = y[i];
#if hlg
    let scene = vec3<f32>(scene_of_hlg(pixel.x), scene_of_hlg(pixel.y), scene_of_hlg(pixel.z));
    let light = scene * 1000.0 * pow(max(dot(scene, vec3<f32>(0.2627, 0.678, 0.0593)), 1e-6), 0.2);
#else
    let light = vec3<f32>(nits_of_pq(pixel.x), nits_of_pq(pixel.y), nits_of_pq(pixel.z));
#end
    let brightest = max(light.x, max(light.y, light.z));
    let given = min(pq_of_nits(brightest) / p.peak, 1.0);
    var bent = given;
    if (given >= p.knee) {
        let t = (given - p.knee) / (1.0 - p.knee);
        let t2 = t * t;
        let t3 = t2 * t;
        bent = (2.0 * t3 - 3.0 * t2 + 1.0) * p.knee + (t3 - 2.0 * t2 + t) * (1.0 - p.knee) + (3.0 * t2 - 2.0 * t3) * p.most;
    }
    let scale = nits_of_pq(bent * p.peak) / max(brightest, 1e-6) / p.white;
    let made = clamp(vec3<f32>(
        dot(vec3<f32>(1.660491, -0.587641, -0.07285), light),
        dot(vec3<f32>(-0.12455, 1.1329, -0.008349), light),
        dot(vec3<f32>(-0.018151, -0.100579, 1.11873), light),
    ) * scale, vec3<f32>(0.0), vec3<f32>(1.0));
    y[i] = vec4<f32>(encode(made.x), encode(made.y), encode(made.z), pixel.w);
}
