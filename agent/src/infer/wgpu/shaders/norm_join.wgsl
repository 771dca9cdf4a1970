// Group norm, second step: mean and 1/deviation of each group from those of its parts.
struct Params { base: u32, groups: u32, count: u32, pixels: u32, in_group: u32, parts: u32, part_pixels: u32, epsilon: f32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> sums: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> joined: array<vec2<f32>>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let group = id.y * grid.x + id.x;
    let i = (p.base + group) * 256u + lane;
    if (group >= p.groups || i >= p.count) { return; }
    var mean = 0.0;
    var squares = 0.0;
    var count = 0.0;
    for (var part = 0u; part < p.parts; part += 1u) {
        let first = part * p.part_pixels;
        let more = f32((min(first + p.part_pixels, p.pixels) - first) * p.in_group);
        let next = sums[i * p.parts + part];
        let off = next.x - mean;
        let all = count + more;
        mean += off * (more / all);
        squares += next.y + off * off * (count * more / all);
        count = all;
    }
    joined[i] = vec2<f32>(mean, inverseSqrt(squares / count + p.epsilon));
}
