// Convolution as a matrix product whose left side is never written down: row m is the m-th pixel of the result,
// column k the channel `k % padded` of tap `k / padded` (taps are ky * columns + kx), read from the picture as it is
// needed. Weights come packed as [outputs][depth], depth a multiple of 32 and zero where nothing is.
//
// Halves with tensor cores, three tiles deep in shared memory, swizzled so that eight rows of a tile lie in eight
// different groups of banks; floats one by one, for exactness rather than speed. At the end of both: bias, activation,
// and a tensor that is added after it.
#include "device.cuh"

#define DEPTH 32
#define STAGES 3

struct Shape {
    int rows, height, width, channels, padded, to_height, to_width, outputs, lines, columns, stride, pad, pad_x, depth;
};

// Where a row's pixel begins in the input; `y` is far outside where there is no such row.
struct Place {
    int y, x;
    u64 picture;
};

DEVICE Place place_of(const Shape& shape, int row) {
    Place place;
    if (row >= shape.rows) {
        place.y = -100000;
        place.x = 0;
        place.picture = 0;
        return place;
    }
    const int x = row % shape.to_width, rest = row / shape.to_width;
    const int y = rest % shape.to_height;
    place.y = y * shape.stride - shape.pad;
    place.x = x * shape.stride - shape.pad_x;
    place.picture = (u64)(rest / shape.to_height) * shape.height * shape.width;
    return place;
}

// Eight channels of one tap of one pixel, or zeros. `whole`: channels are a multiple of 8.
DEVICE bool source_of(const Shape& shape, const Place& place, int tap, int channel, u64& at) {
    const int ky = shape.columns == 3 ? tap / 3 : tap;  // there are three columns or one
    const int y = place.y + ky, x = place.x + tap - ky * shape.columns;
    const bool valid = tap < shape.lines * shape.columns && y >= 0 && y < shape.height && x >= 0 && x < shape.width;
    at = valid ? (place.picture + (u64)(y * shape.width + x)) * shape.channels + channel : 0;
    return valid;
}

union Chunk {
    uint4 all;
    u16 each[8];
};

template <bool WHOLE>
DEVICE uint4 read_chunk(const half* input, const Shape& shape, const Place& place, int tap, int channel) {
    Chunk chunk;
    chunk.all = make_uint4(0, 0, 0, 0);
    u64 at;
    if (source_of(shape, place, tap, channel, at)) {
        if (WHOLE) {
            chunk.all = *(const uint4*)(input + at);
        } else {
#pragma unroll
            for (int i = 0; i < 8; i++) {
                if (channel + i < shape.channels) chunk.each[i] = input[at + i].bits;
            }
        }
    }
    return chunk.all;
}

DEVICE int swizzled(int row, int chunk) {
    return row * DEPTH + (chunk ^ (row / 2 % 4)) * 8;
}

// `slope` is the factor of what is negative: 1 for no activation, 0 for ReLU; `slopes` has one for each channel.
template <typename T>
DEVICE float finish(float value, int column, u64 at, const float* bias, const float* slopes, const T* more,
                    float slope) {
    if (bias) value += bias[column];
    if (value < 0.0f) value *= slopes ? slopes[column] : slope;
    return more ? value + (float)more[at] : value;
}

template <int ROWS, int COLUMNS, int WARPS_DOWN, int WARPS_ACROSS, bool WHOLE>
DEVICE void conv(const half* input, const half* weights, const float* bias, const float* slopes, const half* more,
                 half* to, const Shape& shape, float slope) {
    const int THREADS = WARPS_DOWN * WARPS_ACROSS * 32;
    const int LEFT = ROWS * 4 / THREADS, RIGHT = COLUMNS * 4 / THREADS;  // chunks of 8 halves that a thread fetches
    const int DOWN = ROWS / WARPS_DOWN / 16, ACROSS = COLUMNS / WARPS_ACROSS / 8;
    SHARED half left[STAGES][ROWS * DEPTH];
    SHARED half right[STAGES][COLUMNS * DEPTH];

    const int tiles_across = (shape.outputs + COLUMNS - 1) / COLUMNS;
    const int first_row = blockIdx.x / tiles_across * ROWS, first_column = blockIdx.x % tiles_across * COLUMNS;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int warp_row = warp / WARPS_ACROSS * (ROWS / WARPS_DOWN);
    const int warp_column = warp % WARPS_ACROSS * (COLUMNS / WARPS_ACROSS);

    const int fetch_chunk = threadIdx.x % 4, fetch_row = threadIdx.x / 4;
    Place places[LEFT];
#pragma unroll
    for (int i = 0; i < LEFT; i++) places[i] = place_of(shape, first_row + fetch_row + i * (THREADS / 4));
    // Which tap and channel this thread fetches next. Tiles are fetched in order.
    int tap = 0, channel = fetch_chunk * 8, depth_at = fetch_chunk * 8;

    uint4 held_left[LEFT], held_right[RIGHT];
#if __CUDA_ARCH__ >= 800
    const bool beside = WHOLE;  // copied beside the arithmetic; else held in registers until that is done
#else
    const bool beside = false;
#endif
    const int tiles = shape.depth / DEPTH;

    auto fetch = [&](int tile) {
        while (channel >= shape.padded) {
            channel -= shape.padded;
            tap++;
        }
        const int stage = tile % STAGES;
#pragma unroll
        for (int i = 0; i < LEFT; i++) {
            if (beside) {
                u64 at;
                const bool valid = source_of(shape, places[i], tap, channel, at);
                copy_16(&left[stage][swizzled(fetch_row + i * (THREADS / 4), fetch_chunk)], input + at, valid);
            } else {
                held_left[i] = read_chunk<WHOLE>(input, shape, places[i], tap, channel);
            }
        }
#pragma unroll
        for (int i = 0; i < RIGHT; i++) {
            const int row = fetch_row + i * (THREADS / 4), output = first_column + row;
            const bool valid = output < shape.outputs;
            const half* from = weights + (valid ? (u64)output * shape.depth + depth_at : 0);
            if (beside) {
                copy_16(&right[stage][swizzled(row, fetch_chunk)], from, valid);
            } else {
                held_right[i] = valid ? *(const uint4*)from : make_uint4(0, 0, 0, 0);
            }
        }
        channel += DEPTH;
        depth_at += DEPTH;
    };
    auto put = [&](int tile) {
        if (beside) return;
        const int stage = tile % STAGES;
#pragma unroll
        for (int i = 0; i < LEFT; i++) {
            *(uint4*)&left[stage][swizzled(fetch_row + i * (THREADS / 4), fetch_chunk)] = held_left[i];
        }
#pragma unroll
        for (int i = 0; i < RIGHT; i++) {
            *(uint4*)&right[stage][swizzled(fetch_row + i * (THREADS / 4), fetch_chunk)] = held_right[i];
        }
    };

    float sums[DOWN][ACROSS][4];
#pragma unroll
    for (int i = 0; i < DOWN; i++) {
#pragma unroll
        for (int j = 0; j < ACROSS; j++) {
#pragma unroll
            for (int k = 0; k < 4; k++) sums[i][j][k] = 0.0f;
        }
    }

#pragma unroll
    for (int tile = 0; tile < STAGES - 1; tile++) {
        if (tile < tiles) {
            fetch(tile);
            put(tile);
        }
        copies_commit();
    }
    for (int tile = 0; tile < tiles; tile++) {
        copies_wait<STAGES - 2>();
        __syncthreads();  // this tile is there, and all have done with the one before, whose place is filled next
        const int next = tile + STAGES - 1;
        if (next < tiles) fetch(next);
        copies_commit();
        const half* left_here = left[tile % STAGES];
        const half* right_here = right[tile % STAGES];
#pragma unroll
        for (int k = 0; k < 2; k++) {
            u32 a[DOWN][4];
#pragma unroll
            for (int i = 0; i < DOWN; i++) {
                load_matrices(a[i], left_here + swizzled(warp_row + i * 16 + lane % 16, k * 2 + lane / 16));
            }
#pragma unroll
            for (int j = 0; j < ACROSS; j += 2) {
                u32 b[4];
                const int row = warp_column + j * 8 + lane / 16 * 8 + lane % 8;
                load_matrices(b, right_here + swizzled(row, k * 2 + lane / 8 % 2));
#pragma unroll
                for (int i = 0; i < DOWN; i++) {
                    multiply(sums[i][j], a[i], b[0], b[1]);
                    multiply(sums[i][j + 1], a[i], b[2], b[3]);
                }
            }
        }
        if (next < tiles) put(next);
    }

    const int group = lane / 4, pair = lane % 4;
    const bool even = shape.outputs % 2 == 0;
#pragma unroll
    for (int i = 0; i < DOWN; i++) {
#pragma unroll
        for (int side = 0; side < 2; side++) {
            const int row = first_row + warp_row + i * 16 + side * 8 + group;
            if (row >= shape.rows) continue;
#pragma unroll
            for (int j = 0; j < ACROSS; j++) {
                const int column = first_column + warp_column + j * 8 + pair * 2;
                const u64 at = (u64)row * shape.outputs + column;
                if (column >= shape.outputs) continue;
                const float first = finish(sums[i][j][side * 2], column, at, bias, slopes, more, slope);
                if (column + 1 >= shape.outputs) {
                    to[at] = half(first);
                    continue;
                }
                const float second =
                    finish(sums[i][j][side * 2 + 1], column + 1, at + 1, bias, slopes, more, slope);
                if (even) {
                    *(u32*)(to + at) = pack_halves(first, second);
                } else {
                    to[at] = half(first);
                    to[at + 1] = half(second);
                }
            }
        }
    }
}

#ifdef BACKLOT_EMULATED
#define BOUNDS(threads, blocks)
#else
#define BOUNDS(threads, blocks) __launch_bounds__(threads, blocks)
#endif

#define PARAMETERS(type)                                                                                            \
    const type *input, const type *weights, const float *bias, const float *slopes, const type *more, type *to, int rows, \
        int height, int width, int channels, int padded, int to_height, int to_width, int outputs, int lines,         \
        int columns, int stride, int pad, int pad_x, int depth, float slope
#define GIVEN input, weights, bias, slopes, more, to, shape, slope
#define SHAPE \
    const Shape shape = {rows,    height,  width, channels, padded, to_height, to_width, \
                         outputs, lines, columns, stride,   pad,    pad_x,     depth};

// Named by the tile of a block: pixels and output channels.
KERNEL BOUNDS(256, 2) conv_128x128(PARAMETERS(half)) {
    SHAPE conv<128, 128, 2, 4, true>(GIVEN);
}

KERNEL BOUNDS(256, 2) conv_128x64(PARAMETERS(half)) {
    SHAPE conv<128, 64, 4, 2, true>(GIVEN);
}

KERNEL BOUNDS(128, 3) conv_64x64(PARAMETERS(half)) {
    SHAPE conv<64, 64, 2, 2, true>(GIVEN);
}

// For channels that are no multiple of 8: pictures and latents.
KERNEL BOUNDS(256, 2) conv_any(PARAMETERS(half)) {
    SHAPE conv<128, 64, 4, 2, false>(GIVEN);
}

// 64 pixels by 64 channels, 16 deep, 256 threads of 4 by 4. `padded` equals `channels` here.
KERNEL BOUNDS(256, 2) conv_f32(PARAMETERS(float)) {
    SHAPE
    SHARED float left[16][68];
    SHARED float right[16][68];
    const int tiles_across = (outputs + 63) / 64;
    const int first_row = blockIdx.x / tiles_across * 64, first_column = blockIdx.x % tiles_across * 64;
    const int depth_here = threadIdx.x % 16, row_here = threadIdx.x / 16;  // fetches rows row_here + 16 i
    Place places[4];
    for (int i = 0; i < 4; i++) places[i] = place_of(shape, first_row + row_here + i * 16);
    float sums[4][4];
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 4; j++) sums[i][j] = 0.0f;
    }
    for (int start = 0; start < depth; start += 16) {
        const int at_depth = start + depth_here;
        const int tap = at_depth / channels, channel = at_depth - tap * channels;
        for (int i = 0; i < 4; i++) {
            u64 at;
            const bool valid = source_of(shape, places[i], tap, channel, at);
            left[depth_here][row_here + i * 16] = valid ? input[at] : 0.0f;
            const int output = first_column + row_here + i * 16;
            right[depth_here][row_here + i * 16] = output < outputs ? weights[(u64)output * depth + at_depth] : 0.0f;
        }
        __syncthreads();
        const int x = threadIdx.x % 16 * 4, y = threadIdx.x / 16 * 4;
#pragma unroll
        for (int k = 0; k < 16; k++) {
            const Pack<float> a = load_pack(&left[k][y]), b = load_pack(&right[k][x]);
#pragma unroll
            for (int i = 0; i < 4; i++) {
#pragma unroll
                for (int j = 0; j < 4; j++) sums[i][j] += a.v[i] * b.v[j];
            }
        }
        __syncthreads();
    }
    for (int i = 0; i < 4; i++) {
        const int row = first_row + threadIdx.x / 16 * 4 + i;
        for (int j = 0; j < 4; j++) {
            const int column = first_column + threadIdx.x % 16 * 4 + j;
            if (row >= rows || column >= outputs) continue;
            const u64 at = (u64)row * outputs + column;
            to[at] = finish(sums[i][j], column, at, bias, slopes, more, slope);
        }
    }
}
