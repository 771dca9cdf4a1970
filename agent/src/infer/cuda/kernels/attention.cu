// Attention without its matrix: keys and values pass by in tiles of 64 while each warp keeps 16 queries, their running
// maximum and sum, and the mixed values in registers (the way of FlashAttention 2).
//
// query [pictures, queries, heads * SIZE'], key and value [pictures, keys, heads * SIZE'] with SIZE' <= SIZE a multiple
// of 8; SIZE is a multiple of 16 and what is missing is zero. Halves in and out, floats between. Rows in shared memory
// are 8 halves longer than SIZE: eight rows then begin in eight different groups of banks.
#include "device.cuh"

#define TILE 64

// Copies rows `first`.. of one head into shared memory, zeros where there is no row or channel.
template <int SIZE>
DEVICE void fetch_rows(half* to, const half* from, int first, int rows_there, int rows, int size, int row_length) {
    const int chunks = SIZE / 8;
    for (int i = threadIdx.x; i < rows * chunks; i += blockDim.x) {
        const int row = i / chunks, column = i % chunks * 8;
        const bool valid = first + row < rows_there && column < size;
        copy_16(to + row * (SIZE + 8) + column, valid ? from + (u64)(first + row) * row_length + column : from, valid);
    }
}

// A block has 4 or 8 warps and takes as many times 16 queries of (head blockIdx.y, picture blockIdx.z).
// `factor` is 1/sqrt(size) * log2(e): exponentials are of base two.
template <int SIZE>
DEVICE void attention(const half* query, const half* key, const half* value, half* to, int queries, int keys, int size,
                      int query_row, int key_row, int value_row, int to_row, float factor, int causal) {
    const int STRIDE = SIZE + 8;
    SHARED half shared[2 * TILE * STRIDE];
    half* keys_here = shared;
    half* values_here = shared + TILE * STRIDE;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int group = lane / 4, pair = lane % 4;
    const int first_query = blockIdx.x * (blockDim.x / 2);  // 16 queries for 32 threads
    const int head = blockIdx.y * size;
    query += (u64)blockIdx.z * queries * query_row + head;
    key += (u64)blockIdx.z * keys * key_row + head;
    value += (u64)blockIdx.z * keys * value_row + head;
    to += (u64)blockIdx.z * queries * to_row + head;

    // The block's queries pass through the memory of keys and values, which together hold 128 rows.
    fetch_rows<SIZE>(shared, query, first_query, queries, blockDim.x / 2, size, query_row);
    copies_commit();
    copies_wait<0>();
    __syncthreads();
    u32 asked[SIZE / 16][4];
#pragma unroll
    for (int k = 0; k < SIZE / 16; k++) {
        load_matrices(asked[k], shared + (warp * 16 + lane % 16) * STRIDE + k * 16 + lane / 16 * 8);
    }
    __syncthreads();

    float mixed[SIZE / 8][4];
#pragma unroll
    for (int i = 0; i < SIZE / 8; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) mixed[i][j] = 0.0f;
    }
    // Of rows group and group + 8.
    float most[2] = {-1.0e30f, -1.0e30f}, sum[2] = {0.0f, 0.0f};
    const int row = first_query + warp * 16 + group;

    int tiles = (keys + TILE - 1) / TILE;
    if (causal) {
        const int seen = first_query + blockDim.x / 2;
        const int tiles_seen = (seen + TILE - 1) / TILE;
        tiles = tiles_seen < tiles ? tiles_seen : tiles;
    }
    fetch_rows<SIZE>(keys_here, key, 0, keys, TILE, size, key_row);
    copies_commit();
    for (int tile = 0; tile < tiles; tile++) {
        const int first_key = tile * TILE;
        // Values travel while scores are computed, the next keys while values are mixed.
        fetch_rows<SIZE>(values_here, value, first_key, keys, TILE, size, value_row);
        copies_commit();
        copies_wait<1>();
        __syncthreads();

        float scores[TILE / 8][4];
#pragma unroll
        for (int i = 0; i < TILE / 8; i++) {
#pragma unroll
            for (int j = 0; j < 4; j++) scores[i][j] = 0.0f;
        }
#pragma unroll
        for (int k = 0; k < SIZE / 16; k++) {
#pragma unroll
            for (int i = 0; i < TILE / 8; i += 2) {
                u32 b[4];
                load_matrices(b, keys_here + (i * 8 + lane / 16 * 8 + lane % 8) * STRIDE + k * 16 + lane / 8 % 2 * 8);
                multiply(scores[i], asked[k], b[0], b[1]);
                multiply(scores[i + 1], asked[k], b[2], b[3]);
            }
        }
        __syncthreads();  // all have read the keys
        if (tile + 1 < tiles) fetch_rows<SIZE>(keys_here, key, first_key + TILE, keys, TILE, size, key_row);
        copies_commit();

        const bool whole = first_key + TILE <= keys && !(causal && first_key + TILE > first_query);
#pragma unroll
        for (int side = 0; side < 2; side++) {
            float high = most[side];
#pragma unroll
            for (int i = 0; i < TILE / 8; i++) {
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    float score = scores[i][side * 2 + j] * factor;
                    const int column = first_key + i * 8 + pair * 2 + j;
                    if (!whole && (column >= keys || (causal && column > row + side * 8))) score = -1.0e30f;
                    scores[i][side * 2 + j] = score;
                    high = fmaxf(high, score);
                }
            }
            high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 1));
            high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 2));
            const float fade = power_of_two(most[side] - high);
            most[side] = high;
            float more = 0.0f;
#pragma unroll
            for (int i = 0; i < TILE / 8; i++) {
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    const float share = power_of_two(scores[i][side * 2 + j] - high);
                    scores[i][side * 2 + j] = share;
                    more += share;
                }
            }
            sum[side] = sum[side] * fade + more;
#pragma unroll
            for (int i = 0; i < SIZE / 8; i++) {
                mixed[i][side * 2] *= fade;
                mixed[i][side * 2 + 1] *= fade;
            }
        }

        copies_wait<1>();
        __syncthreads();  // the values are there
#pragma unroll
        for (int k = 0; k < TILE / 16; k++) {
            // Two results side by side are the left factor of the next product.
            const u32 shares[4] = {
                pack_halves(scores[2 * k][0], scores[2 * k][1]), pack_halves(scores[2 * k][2], scores[2 * k][3]),
                pack_halves(scores[2 * k + 1][0], scores[2 * k + 1][1]),
                pack_halves(scores[2 * k + 1][2], scores[2 * k + 1][3])};
#pragma unroll
            for (int i = 0; i < SIZE / 8; i += 2) {
                u32 b[4];
                load_matrices_transposed(b, values_here + (k * 16 + lane % 16) * STRIDE + i * 8 + lane / 16 * 8);
                multiply(mixed[i], shares, b[0], b[1]);
                multiply(mixed[i + 1], shares, b[2], b[3]);
            }
        }
        __syncthreads();  // all have read the values
    }

#pragma unroll
    for (int side = 0; side < 2; side++) {
        float all = sum[side];
        all += __shfl_xor_sync(0xffffffffu, all, 1);
        all += __shfl_xor_sync(0xffffffffu, all, 2);
        const float share = 1.0f / all;
        if (row + side * 8 >= queries) continue;
        half* line = to + (u64)(row + side * 8) * to_row;
#pragma unroll
        for (int i = 0; i < SIZE / 8; i++) {
            if (i * 8 < size) {
                *(u32*)(line + i * 8 + pair * 2) = pack_halves(mixed[i][side * 2] * share, mixed[i][side * 2 + 1] * share);
            }
        }
    }
}

#ifdef BACKLOT_EMULATED
#define BOUNDS
#else
#define BOUNDS __launch_bounds__(256)
#endif

#define PARAMETERS                                                                                               \
    const half *query, const half *key, const half *value, half *to, int queries, int keys, int size, int query_row, \
        int key_row, int value_row, int to_row, float factor, int causal
#define GIVEN query, key, value, to, queries, keys, size, query_row, key_row, value_row, to_row, factor, causal

KERNEL BOUNDS attention_48(PARAMETERS) { attention<48>(GIVEN); }
KERNEL BOUNDS attention_64(PARAMETERS) { attention<64>(GIVEN); }
KERNEL BOUNDS attention_80(PARAMETERS) { attention<80>(GIVEN); }
KERNEL BOUNDS attention_128(PARAMETERS) { attention<128>(GIVEN); }
KERNEL BOUNDS attention_160(PARAMETERS) { attention<160>(GIVEN); }
