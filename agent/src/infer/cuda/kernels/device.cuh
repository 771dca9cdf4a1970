// What the kernels stand on: two number formats, tensor cores, copies into shared memory.
//
// Written in PTX where the language has no word for it, so that no header of a toolkit is needed. A build with
// BACKLOT_EMULATED takes the same words from the tests' emulator, which runs a block's threads on a CPU.
//
// Layouts of the fragments (PTX ISA, "Matrix fragments for mma.m16n8k16"): with group = lane / 4 and pair = lane % 4,
// a lane holds of the 16x8 result c[0..1] = row group, columns 2*pair and 2*pair+1, and c[2..3] the same of row
// group + 8.
#pragma once

#ifdef BACKLOT_EMULATED
#include "emulated.h"
#else

#define KERNEL extern "C" __global__ void
#define SHARED __shared__ __align__(16)
#define DYNAMIC_SHARED(type, name) extern __shared__ __align__(16) type name[]
#define DEVICE __device__ __forceinline__

typedef unsigned long long u64;
typedef unsigned int u32;
typedef unsigned short u16;

DEVICE float half_bits_to_float(u16 bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

DEVICE u16 float_to_half_bits(float value) {
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

// To two bits of a float's 24; what is tiny becomes zero.
DEVICE float power_of_two(float exponent) {
    float value;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(value) : "f"(exponent));
    return value;
}

DEVICE u32 shared_address(const void* pointer) {
    return (u32)__cvta_generic_to_shared(pointer);
}

// Four 8x8 matrices; lanes 8i..8i+7 name the rows of matrix i. A lane gets of each the two elements at row lane / 4,
// columns 2 * (lane % 4) and the next.
DEVICE void load_matrices(u32 (&to)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// The same with rows and columns exchanged.
DEVICE void load_matrices_transposed(u32 (&to)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// c += a * b: 16x16 by 16x8, halves in, floats out. Turing multiplies 8 deep, so it takes two steps.
DEVICE void multiply(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#if __CUDA_ARCH__ >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(b0));
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}

// Copies 16 bytes into shared memory, zeros where `valid` is false; `from` need not be readable then. From Ampere on
// it happens beside the arithmetic and is there after `copies_wait`.
DEVICE void copy_16(void* to, const void* from, bool valid) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(shared_address(to)), "l"(from), "r"(valid ? 16 : 0)
                 : "memory");
#else
    *(uint4*)to = valid ? *(const uint4*)from : make_uint4(0, 0, 0, 0);
#endif
}

// Ends a group of copies.
DEVICE void copies_commit() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most `PENDING` groups of this thread are under way. Others see the bytes after __syncthreads().
template <int PENDING>
DEVICE void copies_wait() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}

#endif  // BACKLOT_EMULATED

// A half, as it lies in memory. Arithmetic is done in floats.
struct half {
    u16 bits;
    half() = default;
    DEVICE explicit half(float value) : bits(float_to_half_bits(value)) {}
    DEVICE explicit operator float() const { return half_bits_to_float(bits); }
};

DEVICE u32 pack_halves(float low, float high) {
    return (u32)float_to_half_bits(low) | ((u32)float_to_half_bits(high) << 16);
}

// Sixteen bytes of elements, read and written at once.
template <typename T>
struct __attribute__((aligned(16))) Pack {
    enum { WIDTH = 16 / sizeof(T) };
    T v[WIDTH];
};

template <typename T>
DEVICE Pack<T> load_pack(const T* from) {
    return *(const Pack<T>*)from;
}

template <typename T>
DEVICE void store_pack(T* to, const Pack<T>& pack) {
    *(Pack<T>*)to = pack;
}

// As `lowering` numbers them.
enum Bend { BEND_NONE, BEND_RELU, BEND_LEAKY, BEND_SLOPES, BEND_SILU, BEND_GELU, BEND_QUICK_GELU };

DEVICE float gelu(float x) {
    return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
}

DEVICE float silu(float x) {
    return x / (1.0f + __expf(-x));
}

// `slope` is the factor of what is negative, for the three kinds that have one.
DEVICE float bend(int kind, float x, float slope) {
    switch (kind) {
        case BEND_RELU:
            return x > 0.0f ? x : 0.0f;
        case BEND_LEAKY:
        case BEND_SLOPES:
            return x > 0.0f ? x : slope * x;
        case BEND_SILU:
            return silu(x);
        case BEND_GELU:
            return gelu(x);
        case BEND_QUICK_GELU:
            return x / (1.0f + __expf(-1.702f * x));
        default:
            return x;
    }
}

DEVICE float sum_over_warp(float value) {
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
    return value;
}

DEVICE float max_over_warp(float value) {
    for (int step = 16; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, step));
    return value;
}
