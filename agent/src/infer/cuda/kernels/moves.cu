// Moves elements: rows, axes, pixels, table rows. What a kernel only moves it knows by its bytes, not by its format.
#include "device.cuh"

#define EACH(at, length)                                                                  \
    for (u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x; at < (length); at += (u64)gridDim.x * blockDim.x)

// Joins and splits: `width` units of each row, from one place in a row to another.
template <typename T>
DEVICE void copy_rows(const T* from, T* to, u64 rows, int width, int from_row, int from_start, int to_row,
                      int to_start) {
    EACH(at, rows * width) {
        const u64 row = at / width, column = at % width;
        to[row * to_row + to_start + column] = from[row * from_row + from_start + column];
    }
}

KERNEL copy_rows_2(const u16* from, u16* to, u64 rows, int width, int from_row, int from_start, int to_row,
                   int to_start) {
    copy_rows(from, to, rows, width, from_row, from_start, to_row, to_start);
}

KERNEL copy_rows_4(const u32* from, u32* to, u64 rows, int width, int from_row, int from_start, int to_row,
                   int to_start) {
    copy_rows(from, to, rows, width, from_row, from_start, to_row, to_start);
}

KERNEL copy_rows_16(const uint4* from, uint4* to, u64 rows, int width, int from_row, int from_start, int to_row,
                    int to_start) {
    copy_rows(from, to, rows, width, from_row, from_start, to_row, to_start);
}

// Up to six axes, of the result: lengths l, and strides s in what is read. Unused ones are 1 and 0, and come first.
template <typename T>
DEVICE void transpose(const T* from, T* to, u64 length, int l1, int l2, int l3, int l4, int l5, int s0, int s1, int s2,
                      int s3, int s4, int s5) {
    EACH(at, length) {
        u64 rest = at, source = rest % l5 * s5;
        rest /= l5;
        source += rest % l4 * s4;
        rest /= l4;
        source += rest % l3 * s3;
        rest /= l3;
        source += rest % l2 * s2;
        rest /= l2;
        source += rest % l1 * s1;
        to[at] = from[source + rest / l1 * s0];
    }
}

KERNEL transpose_2(const u16* from, u16* to, u64 length, int l1, int l2, int l3, int l4, int l5, int s0, int s1,
                   int s2, int s3, int s4, int s5) {
    transpose(from, to, length, l1, l2, l3, l4, l5, s0, s1, s2, s3, s4, s5);
}

KERNEL transpose_4(const u32* from, u32* to, u64 length, int l1, int l2, int l3, int l4, int l5, int s0, int s1,
                   int s2, int s3, int s4, int s5) {
    transpose(from, to, length, l1, l2, l3, l4, l5, s0, s1, s2, s3, s4, s5);
}

// `rows` counts the lines of all pictures of what is made, `width` its pixels in a line, `units` those of a pixel.
template <typename T>
DEVICE void upsample(const T* from, T* to, int rows, int width, int units, int factor) {
    EACH(at, (u64)rows * width * units) {
        const u64 unit = at % units, pixel = at / units;
        const u64 x = pixel % width, y = pixel / width;
        to[at] = from[(y / factor * (width / factor) + x / factor) * units + unit];
    }
}

KERNEL upsample_2(const u16* from, u16* to, int rows, int width, int units, int factor) {
    upsample(from, to, rows, width, units, factor);
}

KERNEL upsample_4(const u32* from, u32* to, int rows, int width, int units, int factor) {
    upsample(from, to, rows, width, units, factor);
}

KERNEL upsample_16(const uint4* from, uint4* to, int rows, int width, int units, int factor) {
    upsample(from, to, rows, width, units, factor);
}

// `rows`, `width` and `channels` are those of what is made.
template <typename T>
DEVICE void pixel_shuffle(const T* from, T* to, int rows, int width, int channels, int factor) {
    const int deep = channels * factor * factor;
    EACH(at, (u64)rows * width * channels) {
        const u64 c = at % channels, pixel = at / channels;
        const u64 x = pixel % width, y = pixel / width;
        const u64 source = (y / factor * (width / factor) + x / factor) * deep;
        to[at] = from[source + (c * factor + y % factor) * factor + x % factor];
    }
}

KERNEL pixel_shuffle_2(const u16* from, u16* to, int rows, int width, int channels, int factor) {
    pixel_shuffle(from, to, rows, width, channels, factor);
}

KERNEL pixel_shuffle_4(const u32* from, u32* to, int rows, int width, int channels, int factor) {
    pixel_shuffle(from, to, rows, width, channels, factor);
}

// Cubic, a = -0.75, edges repeated, pixel centres at one half.
DEVICE void cubic_weights(float (&weights)[4], int& first, int at, int from, int to) {
    // In whole numbers, so that wide pictures lose no digits.
    const int above = (2 * at + 1) * from - to, below = 2 * to;
    const int whole = above >= 0 ? above / below : -1;
    const float part = (float)(above - whole * below) / (float)below;
    const float a = -0.75f;
    for (int i = 0; i < 4; i++) {
        const float x = fabsf(part + 1.0f - i);
        weights[i] = x <= 1.0f ? ((a + 2.0f) * x - (a + 3.0f)) * x * x + 1.0f
                               : ((a * x - 5.0f * a) * x + 8.0f * a) * x - 4.0f * a;
    }
    first = whole - 1;
}

DEVICE int within(int at, int length) {
    return at < 0 ? 0 : at >= length ? length - 1 : at;
}

template <typename T>
DEVICE void resize_bicubic(const T* from, T* to, int pictures, int height, int width, int channels, int to_height,
                           int to_width) {
    EACH(at, (u64)pictures * to_height * to_width * channels) {
        const int c = (int)(at % channels);
        u64 rest = at / channels;
        const int x = (int)(rest % to_width);
        rest /= to_width;
        const int y = (int)(rest % to_height);
        const T* picture = from + rest / to_height * height * width * channels + c;
        float rows[4], columns[4];
        int top, left;
        cubic_weights(rows, top, y, height, to_height);
        cubic_weights(columns, left, x, width, to_width);
        float sum = 0.0f;
        for (int i = 0; i < 4; i++) {
            const T* line = picture + (u64)within(top + i, height) * width * channels;
            float across = 0.0f;
            for (int j = 0; j < 4; j++) across += columns[j] * (float)line[(u64)within(left + j, width) * channels];
            sum += rows[i] * across;
        }
        to[at] = T(sum);
    }
}

KERNEL resize_bicubic_f16(const half* from, half* to, int pictures, int height, int width, int channels, int to_height,
                          int to_width) {
    resize_bicubic(from, to, pictures, height, width, channels, to_height, to_width);
}

KERNEL resize_bicubic_f32(const float* from, float* to, int pictures, int height, int width, int channels,
                          int to_height, int to_width) {
    resize_bicubic(from, to, pictures, height, width, channels, to_height, to_width);
}

// The numbers of the rows are whole floats. One that is out of the table, which the executor has refused before if it
// came from outside, gives zeros.
template <typename T>
DEVICE void embedding(const float* numbers, const T* table, T* to, u64 length, int channels, int rows) {
    EACH(at, length) {
        const float number = numbers[at / channels];
        const bool inside = number >= 0.0f && number < (float)rows;
        to[at] = inside ? table[(u64)number * channels + at % channels] : T(0.0f);
    }
}

KERNEL embedding_f16(const float* numbers, const half* table, half* to, u64 length, int channels, int rows) {
    embedding(numbers, table, to, length, channels, rows);
}

KERNEL embedding_f32(const float* numbers, const float* table, float* to, u64 length, int channels, int rows) {
    embedding(numbers, table, to, length, channels, rows);
}

template <typename T>
DEVICE void time_embedding(const float* times, T* to, int count, int channels, int flip, float shift) {
    const int half_of = channels / 2;
    EACH(at, (u64)count * channels) {
        const int c = (int)(at % channels);
        const bool second = c >= half_of;
        const float exponent = -9.210340371976184f * (float)(second ? c - half_of : c) / ((float)half_of - shift);
        const float angle = times[at / channels] * expf(exponent);
        to[at] = c == 2 * half_of ? T(0.0f) : T(second != (flip != 0) ? cosf(angle) : sinf(angle));
    }
}

KERNEL time_embedding_f16(const float* times, half* to, int count, int channels, int flip, float shift) {
    time_embedding(times, to, count, channels, flip, shift);
}

KERNEL time_embedding_f32(const float* times, float* to, int count, int channels, int flip, float shift) {
    time_embedding(times, to, count, channels, flip, shift);
}
