// The bytes of a frame become RGBA in f32. See format.rs, which this repeats.
struct Params {
    width: u32, height: u32, across: u32, down: u32, shift_x: u32, shift_y: u32,
    red: f32, blue: f32, black: f32, luma: f32, middle: f32, chroma: f32, most: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> raw: array<u32>;

fn value_at(at: u32) -> f32 {
#if wide
    return f32((raw[at / 2u] >> (16u * (at % 2u))) & 0xffffu);
#else
    return f32((raw[at / 4u] >> (8u * (at % 4u))) & 0xffu);
#end
}

// Two samples and the share of the second.
struct Between { first: u32, second: u32, share: f32 }

fn between(at: u32, shift: u32, length: u32, halfway: bool) -> Between {
    let last = length - 1u;
    if (shift == 0u) { return Between(min(at, last), min(at, last), 0.0); }
    let own = at / 2u;
    let odd = at % 2u == 1u;
    if (!halfway) { return Between(min(own, last), min(select(own, own + 1u, odd), last), select(0.0, 0.5, odd)); }
    if (odd) { return Between(min(own, last), min(own + 1u, last), 0.25); }
    return Between(min(max(own, 1u) - 1u, last), min(own, last), 0.75);
}

fn colour(plane: u32, rows: Between, columns: Between) -> f32 {
    let upper = plane + rows.first * p.across;
    let lower = plane + rows.second * p.across;
    let above = value_at(upper + columns.first) * (1.0 - columns.share) + value_at(upper + columns.second) * columns.share;
    let below = value_at(lower + columns.first) * (1.0 - columns.share) + value_at(lower + columns.second) * columns.share;
    return (above * (1.0 - rows.share) + below * rows.share - p.middle) / p.chroma;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (id.y * grid.x + id.x) * 256u + lane;
    if (i >= p.width * p.height) { return; }
#if yuv
    let rows = between(i / p.width, p.shift_y, p.down, true);
    let columns = between(i % p.width, p.shift_x, p.across, false);
    let plane = p.width * p.height;
    let u = colour(plane, rows, columns);
    let v = colour(plane + p.across * p.down, rows, columns);
    let luma = (value_at(i) - p.black) / p.luma;
    let r = luma + 2.0 * (1.0 - p.red) * v;
    let b = luma + 2.0 * (1.0 - p.blue) * u;
    y[i] = vec4<f32>(r, (luma - p.red * r - p.blue * b) / (1.0 - p.red - p.blue), b, 1.0);
#else
    y[i] = vec4<f32>(value_at(i * 4u), value_at(i * 4u + 1u), value_at(i * 4u + 2u), value_at(i * 4u + 3u)) / p.most;
#end
}
