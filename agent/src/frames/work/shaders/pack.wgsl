// RGBA in f32 becomes the bytes of a frame, four at a time. See format.rs, which this repeats.
struct Params {
    width: u32, height: u32, across: u32, down: u32, shift_x: u32, shift_y: u32,
    red: f32, blue: f32, black: f32, luma: f32, middle: f32, chroma: f32, most: f32,
    x_width: u32, x_height: u32, samples: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> raw: array<u32>;
@group(0) @binding(2) var<storage, read_write> x: array<vec4<f32>>;

fn pixel(column: u32, row: u32) -> vec4<f32> {
    let at = min(row, p.x_height - 1u) * p.x_width + min(column, p.x_width - 1u);
    return clamp(x[at], vec4<f32>(0.0), vec4<f32>(1.0));
}

fn luma_of(rgb: vec4<f32>) -> f32 {
    return p.red * rgb.x + (1.0 - p.red - p.blue) * rgb.y + p.blue * rgb.z;
}

fn code(value: f32) -> u32 { return u32(clamp(floor(value + 0.5), 0.0, p.most)); }

fn sample_of(at: u32) -> u32 {
    if (at >= p.samples) { return 0u; }
#if yuv
    let plane = p.width * p.height;
    if (at < plane) { return code(luma_of(pixel(at % p.width, at / p.width)) * p.luma + p.black); }
    let of_plane = p.across * p.down;
    let place = (at - plane) % of_plane;
    let column = (place % p.across) << p.shift_x;
    let row = (place / p.across) << p.shift_y;
    var sum = vec4<f32>(0.0);
    for (var below = 0u; below <= p.shift_y; below += 1u) {
        sum += 0.25 * pixel(max(column, p.shift_x) - p.shift_x, row + below);
        sum += 0.5 * pixel(column, row + below);
        sum += 0.25 * pixel(column + p.shift_x, row + below);
    }
    if (p.shift_y == 1u) { sum = sum * 0.5; }
    let is_blue = at - plane < of_plane;
    let channel = select(sum.x, sum.z, is_blue);
    let share = select(p.red, p.blue, is_blue);
    return code((channel - luma_of(sum)) / (2.0 * (1.0 - share)) * p.chroma + p.middle);
#else
    let channels = pixel((at / 4u) % p.width, at / 4u / p.width);
    return code(channels[at % 4u] * p.most);
#end
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (id.y * grid.x + id.x) * 256u + lane;
#if wide
    if (i * 2u >= p.samples) { return; }
    raw[i] = sample_of(i * 2u) | (sample_of(i * 2u + 1u) << 16u);
#else
    if (i * 4u >= p.samples) { return; }
    raw[i] = sample_of(i * 4u) | (sample_of(i * 4u + 1u) << 8u) | (sample_of(i * 4u + 2u) << 16u) | (sample_of(i * 4u + 3u) << 24u);
#end
}
