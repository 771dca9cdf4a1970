// softmax(q kT / sqrt(size)) v without the matrix of scores: a workgroup takes QUERIES rows of one head and walks over
// the keys, KEYS at a time. For each row it keeps the largest score and the sum so far; where a larger score appears,
// what was summed is scaled down. Each invocation keeps four rows of VECTORS columns in registers.
struct Params {
    base: u32, groups: u32, queries: u32, keys: u32, heads: u32, size: u32, size4: u32, query_tiles: u32, scale: f32,
}
#if four
alias Unit = T4;
#else
alias Unit = T;
#end
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> y: array<Unit>;
@group(0) @binding(2) var<storage, read_write> q: array<Unit>;
@group(0) @binding(3) var<storage, read_write> k: array<Unit>;
@group(0) @binding(4) var<storage, read_write> v: array<Unit>;

var<workgroup> scores: array<f32, $SCORES_LENGTH>;   // [query][key]
var<workgroup> query_part: array<f32, $QUERY_LENGTH>;  // [inner][query]
var<workgroup> key_part: array<f32, $KEY_LENGTH>;      // [inner][key]
var<workgroup> partial: array<f32, 256>;
var<workgroup> largest: array<f32, $QUERIES>;
var<workgroup> total: array<f32, $QUERIES>;
var<workgroup> shrink: array<f32, $QUERIES>;

fn query_at(row: u32, head: u32, c4: u32) -> vec4<f32> {
#if four
    return vec4<f32>(q[(row * p.heads + head) * p.size4 + c4]);
#else
    let at = (row * p.heads + head) * p.size + c4 * 4u;
    let left = p.size - c4 * 4u;
    var made = vec4<f32>(f32(q[at]), 0.0, 0.0, 0.0);
    if (left > 1u) { made.y = f32(q[at + 1u]); }
    if (left > 2u) { made.z = f32(q[at + 2u]); }
    if (left > 3u) { made.w = f32(q[at + 3u]); }
    return made;
#end
}

fn key_at(row: u32, head: u32, c4: u32) -> vec4<f32> {
#if four
    return vec4<f32>(k[(row * p.heads + head) * p.size4 + c4]);
#else
    let at = (row * p.heads + head) * p.size + c4 * 4u;
    let left = p.size - c4 * 4u;
    var made = vec4<f32>(f32(k[at]), 0.0, 0.0, 0.0);
    if (left > 1u) { made.y = f32(k[at + 1u]); }
    if (left > 2u) { made.z = f32(k[at + 2u]); }
    if (left > 3u) { made.w = f32(k[at + 3u]); }
    return made;
#end
}

fn value_at(row: u32, head: u32, c4: u32) -> vec4<f32> {
#if four
    return vec4<f32>(v[(row * p.heads + head) * p.size4 + c4]);
#else
    let at = (row * p.heads + head) * p.size + c4 * 4u;
    let left = p.size - c4 * 4u;
    var made = vec4<f32>(f32(v[at]), 0.0, 0.0, 0.0);
    if (left > 1u) { made.y = f32(v[at + 1u]); }
    if (left > 2u) { made.z = f32(v[at + 2u]); }
    if (left > 3u) { made.w = f32(v[at + 3u]); }
    return made;
#end
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let local = id.y * grid.x + id.x;
    if (local >= p.groups) { return; }
    let which = p.base + local;
    let first_query = (which % p.query_tiles) * ${QUERIES}u;
    let head = (which / p.query_tiles) % p.heads;
    let image = which / (p.query_tiles * p.heads);
    let query_rows = image * p.queries;
    let key_rows = image * p.keys;

    // Of the tile: four rows, and four keys or vectors of columns, side by side.
    let mine_row = (lane / ${LANES}u) * 4u;
    let mine_column = lane % ${LANES}u;
    // Of the softmax: one row, and each SHARERS-th of its keys.
    let row = lane / ${SHARERS}u;
    let share = lane % ${SHARERS}u;

#for r in 4
#for c in VECTORS
    var sum${r}_$c = vec4<f32>(0.0);
#end
#end
    if (lane < ${QUERIES}u) {
        largest[lane] = -1e30;
        total[lane] = 0.0;
    }
#if causal
    let seen = min(p.keys, first_query + ${QUERIES}u);
#else
    let seen = p.keys;
#end

    for (var first_key = 0u; first_key < seen; first_key += ${KEYS}u) {
        // Scores of the tile.
#for r in 4
        var score$r = vec4<f32>(0.0);
#end
        for (var inner = 0u; inner < p.size4; inner += 2u) {
            for (var slot = lane; slot < ${QUERIES}u * 2u; slot += 256u) {
                let at = slot / 2u;
                let c4 = inner + slot % 2u;
                var made = vec4<f32>(0.0);
                if (first_query + at < p.queries && c4 < p.size4) {
                    made = query_at(query_rows + first_query + at, head, c4);
                }
                let to = (slot % 2u) * 4u * ${QUERY_STRIDE}u + at;
                query_part[to] = made.x;
                query_part[to + ${QUERY_STRIDE}u] = made.y;
                query_part[to + 2u * ${QUERY_STRIDE}u] = made.z;
                query_part[to + 3u * ${QUERY_STRIDE}u] = made.w;
            }
            for (var slot = lane; slot < ${KEYS}u * 2u; slot += 256u) {
                let at = slot / 2u;
                let c4 = inner + slot % 2u;
                var made = vec4<f32>(0.0);
                if (first_key + at < p.keys && c4 < p.size4) { made = key_at(key_rows + first_key + at, head, c4); }
                let to = (slot % 2u) * 4u * ${KEY_STRIDE}u + at;
                key_part[to] = made.x;
                key_part[to + ${KEY_STRIDE}u] = made.y;
                key_part[to + 2u * ${KEY_STRIDE}u] = made.z;
                key_part[to + 3u * ${KEY_STRIDE}u] = made.w;
            }
            workgroupBarrier();
#for i in 8
            {
                let at = ${i}u * ${KEY_STRIDE}u + mine_column * 4u;
                let keys = vec4<f32>(key_part[at], key_part[at + 1u], key_part[at + 2u], key_part[at + 3u]);
                let start = ${i}u * ${QUERY_STRIDE}u + mine_row;
#for r in 4
                score$r = fma(vec4<f32>(query_part[start + ${r}u]), keys, score$r);
#end
            }
#end
            workgroupBarrier();
        }
        {
            let keys = vec4<u32>(first_key + mine_column * 4u) + vec4<u32>(0u, 1u, 2u, 3u);
#for r in 4
            {
#if causal
                let sees = keys <= vec4<u32>(min(first_query + mine_row + ${r}u, p.keys - 1u));
#else
                let sees = keys < vec4<u32>(p.keys);
#end
                let made = select(vec4<f32>(-1e30), score$r * p.scale, sees);
                let at = (mine_row + ${r}u) * ${SCORE_STRIDE}u + mine_column * 4u;
                scores[at] = made.x;
                scores[at + 1u] = made.y;
                scores[at + 2u] = made.z;
                scores[at + 3u] = made.w;
            }
#end
        }
        workgroupBarrier();

        // Their softmax, as far as it is known.
        var most = -1e30;
        for (var i = share; i < ${KEYS}u; i += ${SHARERS}u) { most = max(most, scores[row * ${SCORE_STRIDE}u + i]); }
        partial[lane] = most;
        workgroupBarrier();
        most = largest[row];
#for i in SHARERS
        most = max(most, partial[row * ${SHARERS}u + ${i}u]);
#end
        workgroupBarrier();
        var sum = 0.0;
        for (var i = share; i < ${KEYS}u; i += ${SHARERS}u) {
            let weight = exp(max(scores[row * ${SCORE_STRIDE}u + i] - most, -87.0));
            let kept = select(0.0, weight, scores[row * ${SCORE_STRIDE}u + i] > -1e29);
            scores[row * ${SCORE_STRIDE}u + i] = kept;
            sum += kept;
        }
        partial[lane] = sum;
        workgroupBarrier();
        if (share == 0u) {
            var all = 0.0;
#for i in SHARERS
            all += partial[row * ${SHARERS}u + ${i}u];
#end
            let less = exp(max(largest[row] - most, -87.0));
            shrink[row] = less;
            total[row] = total[row] * less + all;
            largest[row] = most;
        }
        workgroupBarrier();

        // What they weigh.
#for r in 4
        {
            let less = shrink[mine_row + ${r}u];
#for c in VECTORS
            sum${r}_$c *= less;
#end
        }
#end
        let count = min(${KEYS}u, seen - first_key);
        for (var key = 0u; key < count; key += 1u) {
#for r in 4
            let weight$r = vec4<f32>(scores[(mine_row + ${r}u) * ${SCORE_STRIDE}u + key]);
#end
#for c in VECTORS
            {
                let c4 = mine_column + ${c}u * ${LANES}u;
                if (c4 < p.size4) {
                    let value = value_at(key_rows + first_key + key, head, c4);
#for r in 4
                    sum${r}_$c = fma(weight$r, value, sum${r}_$c);
#end
                }
            }
#end
        }
        workgroupBarrier();
    }

#for r in 4
    if (first_query + mine_row + ${r}u < p.queries) {
        let row_of = (query_rows + first_query + mine_row + ${r}u) * p.heads + head;
        let whole = total[mine_row + ${r}u];
#for c in VECTORS
        {
            let c4 = mine_column + ${c}u * ${LANES}u;
            if (c4 < p.size4) {
                let made = sum${r}_$c / whole;
#if four
                y[row_of * p.size4 + c4] = T4(made);
#else
                let at = row_of * p.size + c4 * 4u;
                let left = p.size - c4 * 4u;
                y[at] = T(made.x);
                if (left > 1u) { y[at + 1u] = T(made.y); }
                if (left > 2u) { y[at + 2u] = T(made.z); }
                if (left > 3u) { y[at + 3u] = T(made.w); }
#end
            }
        }
#end
    }
#end
}
