// A table of colours, looked up by tetrahedra. See lut.rs, which this repeats.
struct Params { count: u32, side: u32, low_r: f32, low_g: f32, low_b: f32, high_r: f32, high_g: f32, high_b: f32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> table: array<vec4<f32>>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (id.y * grid.x + id.x) * 256u + lane;
    if (i >= p.count) { return; }
    let pixel = y[i];
    let low = vec3<f32>(p.low_r, p.low_g, p.low_b);
    let high = vec3<f32>(p.high_r, p.high_g, p.high_b);
    let last = f32(p.side - 1u);
    let place = clamp((pixel.xyz - low) / (high - low) * last, vec3<f32>(0.0), vec3<f32>(last));
    let cell = min(vec3<u32>(place), vec3<u32>(p.side - 2u));
    var part = place - vec3<f32>(cell);
    var step = vec3<u32>(1u, p.side, p.side * p.side);
    let start = dot(cell, step);
    let all = step.x + step.y + step.z;
    if (part.x < part.y) { part = part.yxz; step = step.yxz; }
    if (part.y < part.z) { part = part.xzy; step = step.xzy; }
    if (part.x < part.y) { part = part.yxz; step = step.yxz; }
    let made = table[start] * (1.0 - part.x) + table[start + step.x] * (part.x - part.y)
        + table[start + step.x + step.y] * (part.y - part.z) + table[start + all] * part.z;
    y[i] = vec4<f32>(made.xyz, pixel.w);
}
