// The first half of each row times the GELU of the second.
#if four
alias Unit = T4;
#else
alias Unit = T;
#end
struct Params { base: u32, groups: u32, count: u32, half: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> y: array<Unit>;
@group(0) @binding(2) var<storage, read_write> x: array<Unit>;

$functions

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let group = id.y * grid.x + id.x;
    let i = (p.base + group) * 256u + lane;
    if (group >= p.groups || i >= p.count) { return; }
    let at = (i / p.half) * 2u * p.half + i % p.half;
#if four
    y[i] = T4(vec4<f32>(x[at]) * gelu(vec4<f32>(x[at + p.half])));
#else
    y[i] = T(f32(x[at]) * gelu(vec4<f32>(f32(x[at + p.half]))).x);
#end
}
