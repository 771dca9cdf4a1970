// The words of `device.cuh` and of CUDA C++, for a CPU: the kernels' logic can be tried where there is no GPU.
//
// The threads of a block are fibers of one thread of the operating system. A warp runs as far as it gets, up to a
// barrier of the block, before the next one moves; in ascending order in every other launch and in descending order in the
// rest. So a barrier that is missing shows as a wrong result in one of them. Copies that happen beside the arithmetic
// are done as late as the kernel's waits allow.
//
// What this cannot show: speed, weak memory order between blocks, and whether the fragments are laid out on a real GPU
// as the PTX ISA says.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#ifndef __CUDA_ARCH__
#define __CUDA_ARCH__ 800
#endif

typedef unsigned long long u64;
typedef unsigned int u32;
typedef unsigned short u16;

#define __expf expf

struct __attribute__((aligned(16))) uint4 {
    u32 x, y, z, w;
};

inline uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) {
    return uint4{x, y, z, w};
}

inline float rsqrtf(float x) {
    return 1.0f / sqrtf(x);
}

namespace emulated {

struct Index {
    u32 x, y, z;
};

extern Index thread, block, threads_in_block, blocks_in_grid;
extern void* dynamic_shared;

void wait_for_block();
// Lays `bytes` down for the warp and gives what all 32 lanes have laid down; `what` must be the same in all.
// Valid until this lane's next call.
const unsigned char* exchange(const char* what, const void* given, u32 bytes);
u32 lane();
void copy_later(void* to, const void* from, bool valid);
void end_group();
void finish_groups(int pending);
[[noreturn]] void fault(const char* what);

typedef void (*Entry)(const u64* slots);
void add_kernel(const char* name, const char* kinds, Entry entry);

// Bytes that one lane lays down at most.
const u32 SLOT = 64;

template <typename T>
T given_by(const unsigned char* all, u32 lane) {
    T value;
    memcpy(&value, all + lane * SLOT, sizeof value);
    return value;
}

template <typename T>
constexpr char kind() {
    if (std::is_pointer<T>::value) return 'p';
    if (std::is_same<T, float>::value) return 'f';
    return sizeof(T) == 8 ? 'l' : 'i';
}

template <typename T>
T take(u64 slot) {
    T value;
    memcpy(&value, &slot, sizeof value);
    return value;
}

template <auto F>
struct Call;

template <typename... A, void (*F)(A...)>
struct Call<F> {
    static constexpr char kinds[] = {kind<A>()..., 0};
    template <size_t... I>
    static void with(const u64* slots, std::index_sequence<I...>) {
        F(take<A>(slots[I])...);
    }
    static void run(const u64* slots) { with(slots, std::index_sequence_for<A...>()); }
};

struct Register {
    Register(const char* name, const char* kinds, Entry entry) { add_kernel(name, kinds, entry); }
};

}  // namespace emulated

#define KERNEL extern "C" void
#define SHARED static __attribute__((aligned(16)))
#define DYNAMIC_SHARED(type, name) type* name = (type*)emulated::dynamic_shared
#define DEVICE inline
#define threadIdx (emulated::thread)
#define blockIdx (emulated::block)
#define blockDim (emulated::threads_in_block)
#define gridDim (emulated::blocks_in_grid)

inline void __syncthreads() {
    emulated::wait_for_block();
}

template <typename T>
T __shfl_xor_sync(u32, T value, int step) {
    const unsigned char* all = emulated::exchange("shuffle", &value, sizeof value);
    return emulated::given_by<T>(all, emulated::lane() ^ step);
}

inline float power_of_two(float exponent) {
    return exp2f(exponent);
}

inline float half_bits_to_float(u16 bits) {
    const u32 sign = (u32)(bits & 0x8000) << 16, exponent = bits >> 10 & 31, rest = bits & 1023;
    if (exponent == 0) {
        const float value = ldexpf((float)rest, -24);
        return sign ? -value : value;
    }
    const u32 made = exponent == 31 ? sign | 0x7f800000 | rest << 13 : sign | (exponent + 112) << 23 | rest << 13;
    float value;
    memcpy(&value, &made, 4);
    return value;
}

// Rounds to nearest, ties to even.
inline u16 float_to_half_bits(float value) {
    u32 bits;
    memcpy(&bits, &value, 4);
    const u16 sign = bits >> 16 & 0x8000;
    const u32 size = bits & 0x7fffffff;
    if (size > 0x7f800000) return sign | 0x7e00;
    if (size >= 0x477ff000) return sign | 0x7c00;
    if (size < 0x38800000) return sign | (u16)lrintf(ldexpf(fabsf(value), 24));
    const u32 odd = size >> 13 & 1;
    return sign | (u16)((size - 0x38000000 + 0xfff + odd) >> 13);
}

inline void load_matrices_as(const char* what, u32 (&to)[4], const void* row, bool transposed) {
    if ((uintptr_t)row % 16) emulated::fault("a matrix row is not aligned");
    const unsigned char* all = emulated::exchange(what, &row, sizeof row);
    const u32 lane = emulated::lane();
    for (int i = 0; i < 4; i++) {
        u16 pair[2];
        for (u32 j = 0; j < 2; j++) {
            const u32 r = transposed ? lane % 4 * 2 + j : lane / 4, c = transposed ? lane / 4 : lane % 4 * 2 + j;
            pair[j] = emulated::given_by<const u16*>(all, i * 8 + r)[c];
        }
        to[i] = pair[0] | (u32)pair[1] << 16;
    }
}

inline void load_matrices(u32 (&to)[4], const void* row) {
    load_matrices_as("ldmatrix", to, row, false);
}

inline void load_matrices_transposed(u32 (&to)[4], const void* row) {
    load_matrices_as("ldmatrix.trans", to, row, true);
}

// Fragments as in the PTX ISA, "Matrix fragments for mma.m16n8k16 with floating point type".
inline void multiply(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    struct {
        u32 a[4], b[2];
    } given = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
    const unsigned char* all = emulated::exchange("mma", &given, sizeof given);
    const u32 lane = emulated::lane();
    auto part = [&](u32 lane, u32 word, u32 high) {
        const u32 bits = emulated::given_by<decltype(given)>(all, lane).a[word];
        return half_bits_to_float(high ? bits >> 16 : bits & 0xffff);
    };
    auto part_b = [&](u32 lane, u32 word, u32 high) {
        const u32 bits = emulated::given_by<decltype(given)>(all, lane).b[word];
        return half_bits_to_float(high ? bits >> 16 : bits & 0xffff);
    };
    for (u32 i = 0; i < 4; i++) {
        const u32 row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        float sum = 0.0f;
        for (u32 k = 0; k < 16; k++) {
            const float left = part(row % 8 * 4 + k % 8 / 2, row / 8 + k / 8 * 2, k % 2);
            const float right = part_b(column * 4 + k % 8 / 2, k / 8, k % 2);
            sum += left * right;
        }
        c[i] += sum;
    }
}

inline void copy_16(void* to, const void* from, bool valid) {
    if ((uintptr_t)to % 16 || (valid && (uintptr_t)from % 16)) emulated::fault("a copy is not aligned");
    if (__CUDA_ARCH__ >= 800) {
        emulated::copy_later(to, from, valid);
    } else if (valid) {
        memcpy(to, from, 16);
    } else {
        memset(to, 0, 16);
    }
}

inline void copies_commit() {
    if (__CUDA_ARCH__ >= 800) emulated::end_group();
}

template <int PENDING>
void copies_wait() {
    if (__CUDA_ARCH__ >= 800) emulated::finish_groups(PENDING);
}
