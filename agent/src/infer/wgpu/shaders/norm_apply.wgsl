// Group norm, third step: each vector with the mean and deviation of its channels' groups, then weight and bias.
struct Params { base: u32, groups: u32, count4: u32, picture: u32, channels: u32, in_group: u32, norm_groups: u32, }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> y: array<T4>;
@group(0) @binding(2) var<storage, read_write> x: array<T4>;
@group(0) @binding(3) var<storage, read_write> joined: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read> weight: array<T>;
@group(0) @binding(5) var<storage, read> bias: array<T>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let group = id.y * grid.x + id.x;
    let i = (p.base + group) * 256u + lane;
    if (group >= p.groups || i >= p.count4) { return; }
    let value = vec4<f32>(x[i]);
    var a = vec4<f32>(0.0);
#for j in 4
    {
        let at = i * 4u + ${j}u;
        let c = at % p.channels;
        let of_group = joined[(at / p.picture) * p.norm_groups + c / p.in_group];
        a[$j] = (value[$j] - of_group.x) * of_group.y * f32(weight[c]) + f32(bias[c]);
    }
#end
#if silu
    a = a / (1.0 + exp(min(-a, vec4<f32>(80.0))));
#end
    y[i] = T4(a);
}
