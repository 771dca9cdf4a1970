// Rows times weights: linear layers, and convolutions as products whose rows are gathered from the picture.
//
// A workgroup makes ROWS x COLUMNS of the result. Each step brings DEPTH of the inner axis to workgroup memory; each
// invocation keeps MINE rows of four columns in registers. The inner axis runs over taps, then channels in fours, as
// the weights are packed: w[tap * channels + channel][output], both padded with zeros to a multiple of four.
struct Params {
    base: u32, groups: u32, rows: u32, column_tiles: u32, channels4: u32, outputs4: u32, channels: u32, outputs: u32,
    x_height: u32, x_width: u32, y_height: u32, y_width: u32,
}
#if x_four
alias X = T4;
#else
alias X = T;
#end
#if y_four
alias Y = T4;
#else
alias Y = T;
#end
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> y: array<Y>;
@group(0) @binding(2) var<storage, read_write> x: array<X>;
@group(0) @binding(3) var<storage, read> w: array<T4>;
@group(0) @binding(4) var<storage, read> bias: array<T4>;
#if slopes
@group(0) @binding(5) var<storage, read> slopes: array<T4>;
#end
#if plus
@group(0) @binding(5) var<storage, read_write> plus: array<Y>;
#end

var<workgroup> a: array<f32, $A_LENGTH>;
var<workgroup> b: array<vec4<f32>, $B_LENGTH>;

$functions

fn fetch(pixel: u32, c4: u32) -> vec4<f32> {
#if x_four
    return vec4<f32>(x[pixel * p.channels4 + c4]);
#else
    var made = vec4<f32>(0.0);
    let start = pixel * p.channels;
    let c = c4 * 4u;
    made.x = f32(x[start + c]);
    if (c + 1u < p.channels) { made.y = f32(x[start + c + 1u]); }
    if (c + 2u < p.channels) { made.z = f32(x[start + c + 2u]); }
    if (c + 3u < p.channels) { made.w = f32(x[start + c + 3u]); }
    return made;
#end
}

@compute @workgroup_size($THREADS)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let group = id.y * grid.x + id.x;
    if (group >= p.groups) { return; }
    let tile = p.base + group;
    let row_start = (tile / p.column_tiles) * ${ROWS}u;
    let column_start = (tile % p.column_tiles) * ${COLUMNS4}u;
    let depth4 = ${TAPS}u * p.channels4;

    // Which pixels the rows are that this invocation brings.
#for l in A_LOADS
    let slot$l = lane + ${l}u * ${THREADS}u;
    let bring$l = row_start + slot$l / ${DEPTH4}u;
#if conv
    let there$l = bring$l < p.rows;
    let image$l = bring$l / (p.y_width * p.y_height);
    let top$l = i32((bring$l / p.y_width) % p.y_height) * $STRIDE - $PAD_Y;
    let left$l = i32(bring$l % p.y_width) * $STRIDE - $PAD_X;
#end
#end

    let mine_row = (lane / ${COLUMNS4}u) * ${MINE}u;
    let mine_column = lane % ${COLUMNS4}u;
#for i in MINE
    var sum$i = vec4<f32>(0.0);
#end

    for (var k4 = 0u; k4 < depth4; k4 += ${DEPTH4}u) {
#for l in A_LOADS
        {
            let inner = k4 + slot$l % ${DEPTH4}u;
            var made = vec4<f32>(0.0);
#if conv
            let tap = inner / p.channels4;
            let py = top$l + i32(tap / ${SIDE}u);
            let px = left$l + i32(tap % ${SIDE}u);
            if (there$l && inner < depth4 && py >= 0 && px >= 0 && py < i32(p.x_height) && px < i32(p.x_width)) {
                made = fetch((image$l * p.x_height + u32(py)) * p.x_width + u32(px), inner % p.channels4);
            }
#else
            if (bring$l < p.rows && inner < depth4) { made = fetch(bring$l, inner); }
#end
            let to = (slot$l % ${DEPTH4}u) * 4u * ${A_STRIDE}u + slot$l / ${DEPTH4}u;
            a[to] = made.x;
            a[to + ${A_STRIDE}u] = made.y;
            a[to + 2u * ${A_STRIDE}u] = made.z;
            a[to + 3u * ${A_STRIDE}u] = made.w;
        }
#end
        for (var slot = lane; slot < ${B_LENGTH}u; slot += ${THREADS}u) {
            let inner = k4 * 4u + slot / ${COLUMNS4}u;
            let column = column_start + slot % ${COLUMNS4}u;
            var made = vec4<f32>(0.0);
            if (inner < depth4 * 4u && column < p.outputs4) { made = vec4<f32>(w[inner * p.outputs4 + column]); }
            b[slot] = made;
        }
        workgroupBarrier();
#for k in DEPTH
        {
            let columns = b[${k}u * ${COLUMNS4}u + mine_column];
            let at = ${k}u * ${A_STRIDE}u + mine_row;
#for i in MINE
            sum$i = fma(vec4<f32>(a[at + ${i}u]), columns, sum$i);
#end
        }
#end
        workgroupBarrier();
    }

    let column = column_start + mine_column;
    if (column >= p.outputs4) { return; }
    let added = vec4<f32>(bias[column]);
#if slopes
    let s = vec4<f32>(slopes[column]);
#end
#for i in MINE
    {
        let row = row_start + mine_row + ${i}u;
        if (row < p.rows) {
            let a = sum$i + added;
            var made = $expression;
#if plus
#if y_four
            made += vec4<f32>(plus[row * p.outputs4 + column]);
#else
            let beside = row * p.outputs + column * 4u;
            made.x += f32(plus[beside]);
            if (column * 4u + 1u < p.outputs) { made.y += f32(plus[beside + 1u]); }
            if (column * 4u + 2u < p.outputs) { made.z += f32(plus[beside + 2u]); }
            if (column * 4u + 3u < p.outputs) { made.w += f32(plus[beside + 3u]); }
#end
#end
#if y_four
            y[row * p.outputs4 + column] = T4(made);
#else
            let at = row * p.outputs + column * 4u;
            y[at] = T(made.x);
            if (column * 4u + 1u < p.outputs) { y[at + 1u] = T(made.y); }
            if (column * 4u + 2u < p.outputs) { y[at + 2u] = T(made.z); }
            if (column * 4u + 3u < p.outputs) { y[at + 3u] = T(made.w); }
#end
        }
    }
#end
}
