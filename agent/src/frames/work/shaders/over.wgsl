// A picture laid over the frame. See compose.rs.
struct Params { count: u32, width: u32, z_width: u32, z_height: u32, left: i32, top: i32, opacity: f32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> z: array<vec4<f32>>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (id.y * grid.x + id.x) * 256u + lane;
    if (i >= p.count) { return; }
    let column = i32(i % p.width) - p.left;
    let row = i32(i / p.width) - p.top;
    if (column < 0 || row < 0 || column >= i32(p.z_width) || row >= i32(p.z_height)) { return; }
    let upper = z[u32(row) * p.z_width + u32(column)];
    let under = y[i];
    let share = upper.w * p.opacity;
    let rest = under.w * (1.0 - share);
    let alpha = share + rest;
    let by = select(0.0, 1.0 / alpha, alpha > 1e-6);
    y[i] = vec4<f32>((upper.xyz * share + under.xyz * rest) * by, alpha);
}
