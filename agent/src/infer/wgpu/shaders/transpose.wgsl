// Gathers: element i of y lies in x where the strides say. Six axes, the first ones of length 1 where there are fewer.
struct Params {
    base: u32, groups: u32, count: u32,
    l0: u32, l1: u32, l2: u32, l3: u32, l4: u32, l5: u32,
    s0: u32, s1: u32, s2: u32, s3: u32, s4: u32, s5: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> y: array<T>;
@group(0) @binding(2) var<storage, read_write> x: array<T>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let group = id.y * grid.x + id.x;
    let i = (p.base + group) * 256u + lane;
    if (group >= p.groups || i >= p.count) { return; }
    var left = i;
    var source = (left % p.l5) * p.s5;
    left = left / p.l5;
    source += (left % p.l4) * p.s4;
    left = left / p.l4;
    source += (left % p.l3) * p.s3;
    left = left / p.l3;
    source += (left % p.l2) * p.s2;
    left = left / p.l2;
    source += (left % p.l1) * p.s1;
    left = left / p.l1;
    source += left * p.s0;
    y[i] = x[source];
}
