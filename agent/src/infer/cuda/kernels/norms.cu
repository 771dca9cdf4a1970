// Group norm in two passes over memory, layer norm and softmax in one. Sums are floats; variances are gathered as
// (count, mean, sum of squared distances) and merged, so that a large mean costs no digits.
#include "device.cuh"

// One part of a (picture, group): how many, their mean, and the sum of squared distances from it.
struct Part {
    float count, mean, spread;
};

DEVICE Part merged(Part a, Part b) {
    const float count = a.count + b.count;
    if (count == 0.0f) return a;
    const float apart = b.mean - a.mean, share = b.count / count;
    Part made;
    made.count = count;
    made.mean = a.mean + apart * share;
    made.spread = a.spread + b.spread + apart * apart * a.count * share;
    return made;
}

DEVICE Part merged_over(Part part, int lanes) {
    for (int step = lanes / 2; step > 0; step /= 2) {
        Part other;
        other.count = __shfl_xor_sync(0xffffffffu, part.count, step);
        other.mean = __shfl_xor_sync(0xffffffffu, part.mean, step);
        other.spread = __shfl_xor_sync(0xffffffffu, part.spread, step);
        part = merged(part, other);
    }
    return part;
}

// First pass. Block (chunk, picture) takes `rows_each` rows of the picture's `rows` and writes one part for each
// group: parts[picture][group][chunk]. A thread adds up columns tid, tid + blockDim.x, ... by itself; shared memory
// holds a part for each channel.
template <typename T>
DEVICE void group_parts(const T* from, float* parts, int rows, int rows_each, int channels, int groups) {
    DYNAMIC_SHARED(float, shared);
    float* means = shared;
    float* spreads = shared + channels;
    const int first = blockIdx.x * rows_each;
    const int last = first + rows_each < rows ? first + rows_each : rows;
    const float count = (float)(last - first);
    const T* picture = from + (u64)blockIdx.y * rows * channels;
    for (int c = threadIdx.x; c < channels; c += blockDim.x) {
        // Distances from the first value: the mean of a channel may be far from zero.
        const float origin = (float)picture[(u64)first * channels + c];
        float sum = 0.0f, squares = 0.0f;
        for (int row = first; row < last; row++) {
            const float x = (float)picture[(u64)row * channels + c] - origin;
            sum += x;
            squares += x * x;
        }
        const float mean = sum / count;
        means[c] = origin + mean;
        spreads[c] = fmaxf(squares - sum * mean, 0.0f);
    }
    __syncthreads();
    const int each = channels / groups;
    for (int group = threadIdx.x; group < groups; group += blockDim.x) {
        Part part = {0.0f, 0.0f, 0.0f};
        for (int c = group * each; c < (group + 1) * each; c++) {
            const Part of_channel = {count, means[c], spreads[c]};
            part = merged(part, of_channel);
        }
        float* to = parts + (((u64)blockIdx.y * groups + group) * gridDim.x + blockIdx.x) * 3;
        to[0] = part.count;
        to[1] = part.mean;
        to[2] = part.spread;
    }
}

KERNEL group_parts_f16(const half* from, float* parts, int rows, int rows_each, int channels, int groups) {
    group_parts(from, parts, rows, rows_each, channels, groups);
}

KERNEL group_parts_f32(const float* from, float* parts, int rows, int rows_each, int channels, int groups) {
    group_parts(from, parts, rows, rows_each, channels, groups);
}

// Second pass. Each block merges the `chunks` parts of its picture's groups again (eight lanes a group), turns them
// into a factor and a summand for each channel, and applies those to its rows. Blocks have a multiple of 32 threads.
template <typename T>
DEVICE void group_apply(const T* from, T* to, const float* parts, const float* weight, const float* bias, int rows,
                        int rows_each, int channels, int groups, int chunks, float epsilon, int with_silu) {
    DYNAMIC_SHARED(float, shared);
    float* factors = shared;
    float* summands = shared + channels;
    const int each = channels / groups, lane = threadIdx.x % 8;
    for (int base = 0; base < groups; base += blockDim.x / 8) {
        const int group = base + threadIdx.x / 8;
        Part part = {0.0f, 0.0f, 0.0f};
        if (group < groups) {
            for (int chunk = lane; chunk < chunks; chunk += 8) {
                const float* given = parts + (((u64)blockIdx.y * groups + group) * chunks + chunk) * 3;
                const Part more = {given[0], given[1], given[2]};
                part = merged(part, more);
            }
        }
        part = merged_over(part, 8);
        if (group < groups) {
            const float inverse = rsqrtf(part.spread / part.count + epsilon);
            for (int c = group * each + lane; c < (group + 1) * each; c += 8) {
                factors[c] = inverse * weight[c];
                summands[c] = bias[c] - part.mean * inverse * weight[c];
            }
        }
    }
    __syncthreads();
    const int first = blockIdx.x * rows_each;
    const int last = first + rows_each < rows ? first + rows_each : rows;
    const u64 begin = ((u64)blockIdx.y * rows + first) * channels;
    const u64 length = (u64)(last - first) * channels;
    const int width = Pack<T>::WIDTH;
    if (channels % width == 0) {
        for (u64 at = (u64)threadIdx.x * width; at < length; at += (u64)blockDim.x * width) {
            Pack<T> pack = load_pack(from + begin + at);
            const int c = (int)(at % channels);
#pragma unroll
            for (int i = 0; i < width; i++) {
                const float x = (float)pack.v[i] * factors[c + i] + summands[c + i];
                pack.v[i] = T(with_silu ? silu(x) : x);
            }
            store_pack(to + begin + at, pack);
        }
    } else {
        for (u64 at = threadIdx.x; at < length; at += blockDim.x) {
            const int c = (int)(at % channels);
            const float x = (float)from[begin + at] * factors[c] + summands[c];
            to[begin + at] = T(with_silu ? silu(x) : x);
        }
    }
}

KERNEL group_apply_f16(const half* from, half* to, const float* parts, const float* weight, const float* bias,
                       int rows, int rows_each, int channels, int groups, int chunks, float epsilon, int with_silu) {
    group_apply(from, to, parts, weight, bias, rows, rows_each, channels, groups, chunks, epsilon, with_silu);
}

KERNEL group_apply_f32(const float* from, float* to, const float* parts, const float* weight, const float* bias,
                       int rows, int rows_each, int channels, int groups, int chunks, float epsilon, int with_silu) {
    group_apply(from, to, parts, weight, bias, rows, rows_each, channels, groups, chunks, epsilon, with_silu);
}

// One warp a row: the mean, then the variance about it, then the result. The row stays in the cache.
template <typename T>
DEVICE void layer_norm(const T* from, T* to, const float* weight, const float* bias, int rows, int channels,
                       float epsilon) {
    const int lane = threadIdx.x % 32;
    const int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= rows) return;  // a whole warp
    const T* line = from + (u64)row * channels;
    float sum = 0.0f;
    for (int c = lane; c < channels; c += 32) sum += (float)line[c];
    const float mean = sum_over_warp(sum) / (float)channels;
    float squares = 0.0f;
    for (int c = lane; c < channels; c += 32) {
        const float x = (float)line[c] - mean;
        squares += x * x;
    }
    const float inverse = rsqrtf(sum_over_warp(squares) / (float)channels + epsilon);
    for (int c = lane; c < channels; c += 32) {
        to[(u64)row * channels + c] = T(((float)line[c] - mean) * inverse * weight[c] + bias[c]);
    }
}

KERNEL layer_norm_f16(const half* from, half* to, const float* weight, const float* bias, int rows, int channels,
                      float epsilon) {
    layer_norm(from, to, weight, bias, rows, channels, epsilon);
}

KERNEL layer_norm_f32(const float* from, float* to, const float* weight, const float* bias, int rows, int channels,
                      float epsilon) {
    layer_norm(from, to, weight, bias, rows, channels, epsilon);
}

// One block a row of float scores; writes shares, in place where both are floats. Row r asks with query
// `first_query + r % queries`; when causal it sees the keys up to that. Blocks have 256 threads.
template <typename T>
DEVICE void softmax(const float* scores, T* shares, int keys, int queries, int first_query, float factor,
                    int causal) {
    SHARED float of_warps[8];
    const float* from = scores + (u64)blockIdx.x * keys;
    T* to = shares + (u64)blockIdx.x * keys;
    const int seen = causal ? first_query + (int)(blockIdx.x % queries) + 1 : keys;
    const int last = seen < keys ? seen : keys;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

    float most = -3.0e38f;
    for (int i = threadIdx.x; i < last; i += blockDim.x) most = fmaxf(most, from[i] * factor);
    most = max_over_warp(most);
    if (lane == 0) of_warps[warp] = most;
    __syncthreads();
    most = of_warps[0];
    for (int i = 1; i < 8; i++) most = fmaxf(most, of_warps[i]);
    __syncthreads();

    float sum = 0.0f;
    for (int i = threadIdx.x; i < last; i += blockDim.x) sum += __expf(from[i] * factor - most);
    sum = sum_over_warp(sum);
    if (lane == 0) of_warps[warp] = sum;
    __syncthreads();
    sum = of_warps[0];
    for (int i = 1; i < 8; i++) sum += of_warps[i];

    const float share = 1.0f / sum;
    for (int i = threadIdx.x; i < keys; i += blockDim.x) {
        to[i] = T(i < last ? __expf(from[i] * factor - most) * share : 0.0f);
    }
}

KERNEL softmax_f16(const float* scores, half* shares, int keys, int queries, int first_query, float factor,
                   int causal) {
    softmax(scores, shares, keys, queries, first_query, factor, causal);
}

KERNEL softmax_f32(const float* scores, float* shares, int keys, int queries, int first_query, float factor,
                   int causal) {
    softmax(scores, shares, keys, queries, first_query, factor, causal);
}
