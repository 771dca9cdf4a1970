// Film grain. See grain.rs, which this repeats: the hash to the bit.
struct Params { number: u32, count: u32, width: u32, seed: u32, strength: f32, size: f32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;

fn hash(value: u32) -> u32 {
    let state = value * 747796405u + 2891336453u;
    let word = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
    return (word >> 22u) ^ word;
}

fn at(column: u32, row: u32, channel: u32) -> f32 {
    let place = hash(hash(column) + row);
    let made = hash(place + hash(p.seed) + hash(p.number * 4u + channel));
    let sum = (made & 0xffu) + ((made >> 8u) & 0xffu) + ((made >> 16u) & 0xffu) + (made >> 24u);
    return (f32(sum) - 510.0) / 147.8;
}

fn noise(across: f32, down: f32, channel: u32) -> f32 {
    let left = u32(across);
    let top = u32(down);
    let right = across - f32(left);
    let below = down - f32(top);
    let weights = vec4<f32>((1.0 - right) * (1.0 - below), right * (1.0 - below), (1.0 - right) * below, right * below);
    let values = vec4<f32>(
        at(left, top, channel), at(left + 1u, top, channel), at(left, top + 1u, channel), at(left + 1u, top + 1u, channel),
    );
    return dot(weights, values) / sqrt(dot(weights, weights));
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (id.y * grid.x + id.x) * 256u + lane;
    if (i >= p.count) { return; }
    let pixel = y[i];
    let luma = clamp(dot(pixel.xyz, vec3<f32>(0.2126, 0.7152, 0.0722)), 0.0, 1.0);
    let strength = p.strength * 4.0 * luma * (1.0 - luma);
    let across = f32(i % p.width) / p.size;
    let down = f32(i / p.width) / p.size;
#if grey
    let made = vec3<f32>(noise(across, down, 0u));
#else
    let made = vec3<f32>(noise(across, down, 0u), noise(across, down, 1u), noise(across, down, 2u));
#end
    y[i] = vec4<f32>(pixel.xyz + strength * made, pixel.w);
}
