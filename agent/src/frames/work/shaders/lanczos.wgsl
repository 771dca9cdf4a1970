// One direction of a resize. Across, colours are weighed by alpha; down, they are freed of it. See resize.rs.
struct Params { count: u32, width: u32, x_width: u32, taps: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> x: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> first: array<u32>;
@group(0) @binding(4) var<storage, read> weights: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (id.y * grid.x + id.x) * 256u + lane;
    if (i >= p.count) { return; }
    let column = i % p.width;
    let row = i / p.width;
    var sum = vec4<f32>(0.0);
#if across
    let start = row * p.x_width + first[column];
    for (var tap = 0u; tap < p.taps; tap += 1u) {
        let pixel = x[start + tap];
        let by = weights[column * p.taps + tap] * pixel.w;
        sum += by * vec4<f32>(pixel.xyz, 1.0);
    }
    y[i] = sum;
#else
    for (var tap = 0u; tap < p.taps; tap += 1u) {
        sum += weights[row * p.taps + tap] * x[(first[row] + tap) * p.x_width + column];
    }
    let by = select(0.0, 1.0 / sum.w, sum.w > 1e-6);
    y[i] = vec4<f32>(sum.xyz * by, clamp(sum.w, 0.0, 1.0));
#end
}
