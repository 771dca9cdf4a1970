// Layer norm: a workgroup for each row; mean first, then the distances from it.
struct Params { base: u32, groups: u32, width: u32, epsilon: f32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> y: array<T>;
@group(0) @binding(2) var<storage, read_write> x: array<T>;
@group(0) @binding(3) var<storage, read> weight: array<T>;
@group(0) @binding(4) var<storage, read> bias: array<T>;

var<workgroup> sums: array<f32, 64>;

// The sum over all invocations, known to each of them.
#if subgroups
fn over_all(value: f32, lane: u32, subgroup_size: u32, subgroup_lane: u32) -> f32 {
    let sum = subgroupAdd(value);
    if (subgroup_lane == 0u) { sums[lane / subgroup_size] = sum; }
    workgroupBarrier();
    var all = 0.0;
    for (var i = 0u; i < (64u + subgroup_size - 1u) / subgroup_size; i += 1u) { all += sums[i]; }
    workgroupBarrier();
    return all;
}
#else
fn over_all(value: f32, lane: u32) -> f32 {
    sums[lane] = value;
    workgroupBarrier();
    for (var half = 32u; half > 0u; half = half / 2u) {
        if (lane < half) { sums[lane] += sums[lane + half]; }
        workgroupBarrier();
    }
    let all = sums[0];
    workgroupBarrier();
    return all;
}
#end

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
#if subgroups
    @builtin(subgroup_size) subgroup_size: u32, @builtin(subgroup_invocation_id) subgroup_lane: u32,
#end
) {
    let local = id.y * grid.x + id.x;
    if (local >= p.groups) { return; }
    let start = (p.base + local) * p.width;
    var sum = 0.0;
    for (var i = lane; i < p.width; i += 64u) { sum += f32(x[start + i]); }
#if subgroups
    let mean = over_all(sum, lane, subgroup_size, subgroup_lane) / f32(p.width);
#else
    let mean = over_all(sum, lane) / f32(p.width);
#end
    var squares = 0.0;
    for (var i = lane; i < p.width; i += 64u) {
        let off = f32(x[start + i]) - mean;
        squares += off * off;
    }
#if subgroups
    let variance = over_all(squares, lane, subgroup_size, subgroup_lane) / f32(p.width);
#else
    let variance = over_all(squares, lane) / f32(p.width);
#end
    let scale = inverseSqrt(variance + p.epsilon);
    for (var i = lane; i < p.width; i += 64u) {
        y[start + i] = T((f32(x[start + i]) - mean) * scale * f32(weight[i]) + f32(bias[i]));
    }
}
