// Element by element. A thread takes sixteen bytes at a time; every buffer begins at a multiple of 64 bytes.
#include "device.cuh"

// Calls `change(pack, first index, count)` over all packs; `count` is less than a whole pack only at the end.
template <typename T, typename F>
DEVICE void over_packs(u64 length, F change) {
    const u64 width = Pack<T>::WIDTH;
    const u64 step = (u64)gridDim.x * blockDim.x * width;
    for (u64 at = ((u64)blockIdx.x * blockDim.x + threadIdx.x) * width; at < length; at += step) {
        change(at, at + width <= length ? (int)width : (int)(length - at));
    }
}

template <typename T, typename F>
DEVICE void map(const T* from, T* to, u64 length, F change) {
    over_packs<T>(length, [&](u64 at, int count) {
        if (count == Pack<T>::WIDTH) {
            Pack<T> pack = load_pack(from + at);
#pragma unroll
            for (int i = 0; i < Pack<T>::WIDTH; i++) pack.v[i] = T(change((float)pack.v[i], at + i));
            store_pack(to + at, pack);
        } else {
            for (int i = 0; i < count; i++) to[at + i] = T(change((float)from[at + i], at + i));
        }
    });
}

template <typename T, typename F>
DEVICE void zip(const T* a, const T* b, T* to, u64 length, F change) {
    over_packs<T>(length, [&](u64 at, int count) {
        if (count == Pack<T>::WIDTH) {
            Pack<T> left = load_pack(a + at);
            const Pack<T> right = load_pack(b + at);
#pragma unroll
            for (int i = 0; i < Pack<T>::WIDTH; i++) left.v[i] = T(change((float)left.v[i], (float)right.v[i]));
            store_pack(to + at, left);
        } else {
            for (int i = 0; i < count; i++) to[at + i] = T(change((float)a[at + i], (float)b[at + i]));
        }
    });
}

template <typename T>
DEVICE void activate(const T* from, T* to, const float* slopes, u64 length, int channels, int kind, float slope) {
    map(from, to, length, [&](float x, u64 at) {
        return bend(kind, x, kind == BEND_SLOPES ? slopes[at % channels] : slope);
    });
}

KERNEL activate_f16(const half* from, half* to, const float* slopes, u64 length, int channels, int kind, float slope) {
    activate(from, to, slopes, length, channels, kind, slope);
}

KERNEL activate_f32(const float* from, float* to, const float* slopes, u64 length, int channels, int kind,
                    float slope) {
    activate(from, to, slopes, length, channels, kind, slope);
}

// `to` may be `a`.
KERNEL add_f16(const half* a, const half* b, half* to, u64 length) {
    zip(a, b, to, length, [](float a, float b) { return a + b; });
}

KERNEL add_f32(const float* a, const float* b, float* to, u64 length) {
    zip(a, b, to, length, [](float a, float b) { return a + b; });
}

KERNEL mul_f16(const half* a, const half* b, half* to, u64 length) {
    zip(a, b, to, length, [](float a, float b) { return a * b; });
}

KERNEL mul_f32(const float* a, const float* b, float* to, u64 length) {
    zip(a, b, to, length, [](float a, float b) { return a * b; });
}

KERNEL scale_f16(const half* from, half* to, u64 length, float factor) {
    map(from, to, length, [=](float x, u64) { return x * factor; });
}

KERNEL scale_f32(const float* from, float* to, u64 length, float factor) {
    map(from, to, length, [=](float x, u64) { return x * factor; });
}

// Keeps floats, as exact as halves are.
KERNEL round_f32(const float* from, float* to, u64 length) {
    map(from, to, length, [](float x, u64) { return (float)half(x); });
}

KERNEL cast_f32_f16(const float* from, half* to, u64 length) {
    over_packs<half>(length, [&](u64 at, int count) {
        if (count == 8) {
            const Pack<float> low = load_pack(from + at), high = load_pack(from + at + 4);
            Pack<half> made;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                made.v[i] = half(low.v[i]);
                made.v[i + 4] = half(high.v[i]);
            }
            store_pack(to + at, made);
        } else {
            for (int i = 0; i < count; i++) to[at + i] = half(from[at + i]);
        }
    });
}

KERNEL cast_f16_f32(const half* from, float* to, u64 length) {
    over_packs<half>(length, [&](u64 at, int count) {
        if (count == 8) {
            const Pack<half> given = load_pack(from + at);
            Pack<float> low, high;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                low.v[i] = (float)given.v[i];
                high.v[i] = (float)given.v[i + 4];
            }
            store_pack(to + at, low);
            store_pack(to + at + 4, high);
        } else {
            for (int i = 0; i < count; i++) to[at + i] = (float)from[at + i];
        }
    });
}

// [n, ..., channels] plus [n, channels]; `per_picture` elements belong to each n.
template <typename T>
DEVICE void add_channels(const T* from, const T* more, T* to, u64 length, u64 per_picture, int channels) {
    map(from, to, length, [&](float x, u64 at) {
        return x + (float)more[at / per_picture * channels + at % channels];
    });
}

KERNEL add_channels_f16(const half* from, const half* more, half* to, u64 length, u64 per_picture, int channels) {
    add_channels(from, more, to, length, per_picture, channels);
}

KERNEL add_channels_f32(const float* from, const float* more, float* to, u64 length, u64 per_picture, int channels) {
    add_channels(from, more, to, length, per_picture, channels);
}

// Rows of 2 * width become rows of width; `length` counts what is made.
template <typename T>
DEVICE void geglu(const T* from, T* to, u64 length, int width) {
    if (width % Pack<T>::WIDTH == 0) {
        over_packs<T>(length, [&](u64 at, int) {
            const T* row = from + at / width * width + at;  // a row is twice as long
            Pack<T> made = load_pack(row);
            const Pack<T> gate = load_pack(row + width);
#pragma unroll
            for (int i = 0; i < Pack<T>::WIDTH; i++) made.v[i] = T((float)made.v[i] * gelu((float)gate.v[i]));
            store_pack(to + at, made);
        });
    } else {
        for (u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x; at < length; at += (u64)gridDim.x * blockDim.x) {
            const T* row = from + at / width * width + at;
            to[at] = T((float)row[0] * gelu((float)row[width]));
        }
    }
}

KERNEL geglu_f16(const half* from, half* to, u64 length, int width) {
    geglu(from, to, length, width);
}

KERNEL geglu_f32(const float* from, float* to, u64 length, int width) {
    geglu(from, to, length, width);
}
