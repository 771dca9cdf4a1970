// Group norm, first step: each workgroup sums up a part of the pixels of one group of channels. What is summed is
// the distance from the part's first value, so that a mean far from zero costs no digits.
struct Params { base: u32, groups: u32, pixels: u32, channels: u32, in_group: u32, norm_groups: u32, parts: u32, part_pixels: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<T>;
// Mean and sum of squared distances from it, of each part.
@group(0) @binding(2) var<storage, read_write> sums: array<vec2<f32>>;

var<workgroup> shared_sums: array<vec2<f32>, 256>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
#if subgroups
    @builtin(subgroup_size) subgroup_size: u32, @builtin(subgroup_invocation_id) subgroup_lane: u32,
#end
) {
    let local = id.y * grid.x + id.x;
    if (local >= p.groups) { return; }
    let which = p.base + local;
    let part = which % p.parts;
    let group = (which / p.parts) % p.norm_groups;
    let image = which / (p.parts * p.norm_groups);
    let first = part * p.part_pixels;
    let count = (min(first + p.part_pixels, p.pixels) - first) * p.in_group;
    let start = (image * p.pixels + first) * p.channels + group * p.in_group;
    let offset = f32(x[start]);
    var sum = vec2<f32>(0.0);
    for (var i = lane; i < count; i += 256u) {
        let off = f32(x[start + (i / p.in_group) * p.channels + i % p.in_group]) - offset;
        sum += vec2<f32>(off, off * off);
    }
#if subgroups
    sum = vec2<f32>(subgroupAdd(sum.x), subgroupAdd(sum.y));
    if (subgroup_lane == 0u) { shared_sums[lane / subgroup_size] = sum; }
    workgroupBarrier();
    if (lane == 0u) {
        var all = vec2<f32>(0.0);
        for (var i = 0u; i < 256u / subgroup_size; i += 1u) { all += shared_sums[i]; }
        let n = f32(count);
        sums[which] = vec2<f32>(offset + all.x / n, max(all.y - all.x * all.x / n, 0.0));
    }
#else
    shared_sums[lane] = sum;
    workgroupBarrier();
    for (var half = 128u; half > 0u; half = half / 2u) {
        if (lane < half) { shared_sums[lane] += shared_sums[lane + half]; }
        workgroupBarrier();
    }
    if (lane == 0u) {
        let all = shared_sums[0];
        let n = f32(count);
        sums[which] = vec2<f32>(offset + all.x / n, max(all.y - all.x * all.x / n, 0.0));
    }
#end
}
