// Rows of a table by number. The numbers are kept in f32 whatever T is, and were checked before they came here.
#if four
alias Unit = T4;
#else
alias Unit = T;
#end
struct Params { base: u32, groups: u32, count: u32, width: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> y: array<Unit>;
@group(0) @binding(2) var<storage, read_write> numbers: array<f32>;
@group(0) @binding(3) var<storage, read> rows: array<Unit>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let group = id.y * grid.x + id.x;
    let i = (p.base + group) * 256u + lane;
    if (group >= p.groups || i >= p.count) { return; }
    y[i] = rows[u32(numbers[i / p.width]) * p.width + i % p.width];
}
