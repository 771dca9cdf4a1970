// y = expression of x (a), perhaps of a second tensor z (b), or of slopes by channel (s). Values lie on
// boundaries of 256 bytes, so that the last vector may reach beyond the value's end.
struct Params { base: u32, groups: u32, count4: u32, channels: u32, picture: u32, factor: f32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> y: array<T4>;
@group(0) @binding(2) var<storage, read_write> x: array<T4>;
#if second
@group(0) @binding(3) var<storage, read_write> z: array<T4>;
#end
#if by_channel
@group(0) @binding(3) var<storage, read_write> z: array<T>;
#end
#if slopes
@group(0) @binding(3) var<storage, read> slopes: array<T>;
#end

$functions

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let group = id.y * grid.x + id.x;
    let i = (p.base + group) * 256u + lane;
    if (group >= p.groups || i >= p.count4) { return; }
    let a = vec4<f32>(x[i]);
#if second
    let b = vec4<f32>(z[i]);
#end
#if by_channel
    let at = vec4<u32>(i * 4u) + vec4<u32>(0u, 1u, 2u, 3u);
    let channel = (at / p.picture) * p.channels + at % p.channels;
    let b = vec4<f32>(f32(z[channel.x]), f32(z[channel.y]), f32(z[channel.z]), f32(z[channel.w]));
#end
#if slopes
    let at = (vec4<u32>(i * 4u) + vec4<u32>(0u, 1u, 2u, 3u)) % p.channels;
    let s = vec4<f32>(f32(slopes[at.x]), f32(slopes[at.y]), f32(slopes[at.z]), f32(slopes[at.w]));
#end
    y[i] = T4($expression);
}
