// Copies a part of each row of x to a part of each row of y: concat, split, and what only changes its name.
#if four
alias Unit = T4;
#else
alias Unit = T;
#end
struct Params { base: u32, groups: u32, count: u32, length: u32, x_row: u32, x_start: u32, y_row: u32, y_start: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> y: array<Unit>;
@group(0) @binding(2) var<storage, read_write> x: array<Unit>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let group = id.y * grid.x + id.x;
    let i = (p.base + group) * 256u + lane;
    if (group >= p.groups || i >= p.count) { return; }
    let row = i / p.length;
    let at = i % p.length;
    y[row * p.y_row + p.y_start + at] = x[row * p.x_row + p.x_start + at];
}
