// How far each pixel is from that of a picture. See compose.rs.
struct Params { count: u32, gain: f32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> z: array<vec4<f32>>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (id.y * grid.x + id.x) * 256u + lane;
    if (i >= p.count) { return; }
    y[i] = vec4<f32>(abs(y[i].xyz - z[i].xyz) * p.gain, 1.0);
}
