// Pictures that change their size: nearest, pixel shuffle, bicubic. One unit of y for each invocation.
#if four
alias Unit = T4;
alias Sum = vec4<f32>;
#else
alias Unit = T;
alias Sum = f32;
#end
struct Params {
    base: u32, groups: u32, count: u32, channels: u32,
    x_height: u32, x_width: u32, y_height: u32, y_width: u32, factor: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> y: array<Unit>;
@group(0) @binding(2) var<storage, read_write> x: array<Unit>;

#if bicubic
struct Taps { at: vec4<i32>, weights: vec4<f32> }

// Where a pixel of the result lies among those of the source, in whole numbers as long as possible.
fn taps(i: u32, from_length: u32, to_length: u32) -> Taps {
    let over = i32((2u * i + 1u) * from_length) - i32(to_length);
    let unit = i32(2u * to_length);
    var whole = over / unit;
    if (over < 0) { whole = -1; }
    let part = f32(over - whole * unit) / f32(unit);
    let near = vec2<f32>(part, 1.0 - part);
    let far = vec2<f32>(1.0 + part, 2.0 - part);
    let inner = (1.25 * near - 2.25) * near * near + 1.0;
    let outer = ((-0.75 * far + 3.75) * far - 6.0) * far + 3.0;
    let at = clamp(vec4<i32>(whole - 1, whole, whole + 1, whole + 2), vec4<i32>(0), vec4<i32>(i32(from_length) - 1));
    return Taps(at, vec4<f32>(outer.x, inner.x, inner.y, outer.y));
}
#end

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let group = id.y * grid.x + id.x;
    let i = (p.base + group) * 256u + lane;
    if (group >= p.groups || i >= p.count) { return; }
    let c = i % p.channels;
    let pixel = i / p.channels;
    let px = pixel % p.y_width;
    let py = (pixel / p.y_width) % p.y_height;
    let source = (pixel / (p.y_width * p.y_height)) * p.x_height;
#if nearest
    y[i] = x[((source + py / p.factor) * p.x_width + px / p.factor) * p.channels + c];
#end
#if shuffle
    let deep = p.channels * p.factor * p.factor;
    let part = (c * p.factor + py % p.factor) * p.factor + px % p.factor;
    y[i] = x[((source + py / p.factor) * p.x_width + px / p.factor) * deep + part];
#end
#if bicubic
    let rows = taps(py, p.x_height, p.y_height);
    let columns = taps(px, p.x_width, p.y_width);
    var sum = Sum(0.0);
#for j in 4
    {
        let row = (source + u32(rows.at[$j])) * p.x_width;
        var across = Sum(0.0);
#for k in 4
        across += columns.weights[$k] * Sum(x[(row + u32(columns.at[$k])) * p.channels + c]);
#end
        sum += rows.weights[$j] * across;
    }
#end
    y[i] = Unit(sum);
#end
}
