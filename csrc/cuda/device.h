// What the CUDA kernels ask of the device beyond the language, behind names that the host emulation has too
// (tests/cuda/emulator.h): asynchronous copies, matrices from shared memory, tensor cores, numbers of 16 bits.
#pragma once

#include <cstdint>

namespace famkern::cuda {

// 16-bit numbers as they lie in memory; arithmetic is in float.
struct Half {
    uint16_t bits;
};
struct BFloat {
    uint16_t bits;
};

}  // namespace famkern::cuda

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define FAMKERN_DEVICE __device__ __forceinline__
#define FAMKERN_HOST_DEVICE __host__ __device__
#define FAMKERN_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
#define FAMKERN_UNROLL _Pragma("unroll")
#else
#include "emulator.h"
#endif

namespace famkern::cuda {

#ifdef __CUDACC__

// Dynamic shared memory of the block.
FAMKERN_DEVICE char* shared_memory() {
    extern __shared__ __align__(128) char memory[];
    return memory;
}

// 16 bytes from global to shared memory, or zeros; there after wait_for_copies() and a barrier.
FAMKERN_DEVICE void copy16(void* to, const void* from, bool inside) {
    const uint32_t address = uint32_t(__cvta_generic_to_shared(to));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(inside ? 16 : 0)
                 : "memory");
}

FAMKERN_DEVICE void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// A number of a map, picture or sum from global memory, and to it: the emulator counts their bytes.
template <class T>
FAMKERN_DEVICE T load(const T* from) {
    return *from;
}
template <class T>
FAMKERN_DEVICE void store(T* to, const T& value) {
    *to = value;
}

// Four 8 x 8 matrices of 16-bit numbers, whose rows of 16 bytes the lanes 8 i .. 8 i + 7 point at for matrix i.
FAMKERN_DEVICE void load_matrices(uint32_t (&registers)[4], const void* row) {
    const uint32_t address = uint32_t(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(address)
                 : "memory");
}

// c (16 x 8) += a (16 x 16) b (16 x 8), in the layout that PTX gives mma.m16n8k16.
FAMKERN_DEVICE void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Half) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
FAMKERN_DEVICE void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, BFloat) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

FAMKERN_DEVICE uint32_t other_lane(uint32_t value, int mask) { return __shfl_xor_sync(~0u, value, mask); }
FAMKERN_DEVICE float other_lane(float value, int mask) { return __shfl_xor_sync(~0u, value, mask); }

FAMKERN_DEVICE void barrier() { __syncthreads(); }

FAMKERN_DEVICE uint16_t bits_of(float value, Half) { return __half_as_ushort(__float2half_rn(value)); }
FAMKERN_DEVICE uint16_t bits_of(float value, BFloat) { return __bfloat16_as_ushort(__float2bfloat16_rn(value)); }
FAMKERN_DEVICE float value_of(Half h) { return __half2float(__ushort_as_half(h.bits)); }
FAMKERN_DEVICE float value_of(BFloat b) { return __uint_as_float(uint32_t(b.bits) << 16); }
FAMKERN_DEVICE float exponential(float x) { return __expf(x); }
FAMKERN_DEVICE float float_of(uint32_t word) { return __uint_as_float(word); }
FAMKERN_DEVICE uint32_t word_of(float value) { return __float_as_uint(value); }

// run() with this device as the current one: 0, or CUDA's error.
template <class Run>
int on_device(int device, const Run& run) {
    int before = 0;
    cudaError_t error = cudaGetDevice(&before);
    if (error == cudaSuccess && device != before) error = cudaSetDevice(device);
    const int result = error == cudaSuccess ? run() : int(error);
    if (device != before) cudaSetDevice(before);
    return result;
}

// Lets a kernel have as much shared memory as there is, which no block has unasked: 0, or CUDA's error. Always the same
// amount, since other threads may be about to launch the same kernel with another.
template <class Kernel>
int allow_shared_memory(Kernel* kernel) {
    int device = 0, most = 0;
    cudaError_t error = cudaGetDevice(&device);
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    if (error == cudaSuccess) error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
    if (error == cudaSuccess)
        error = cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                     int(cudaSharedmemCarveoutMaxShared));
    return int(error);
}

template <class Launch>
int launched(int error, const Launch& launch) {
    if (error == 0) launch();
    const cudaError_t last = cudaGetLastError();  // asked for in any case: it stays until it is
    return error != 0 ? error : int(last);
}

#define FAMKERN_LAUNCH(kernel, blocks, images, threads, shared, stream, ...)                                 \
    famkern::cuda::launched((shared) == 0 ? 0 : famkern::cuda::allow_shared_memory(kernel), [&] {            \
        kernel<<<dim3(unsigned(blocks), unsigned(images)), threads, size_t(shared), cudaStream_t(stream)>>>( \
            __VA_ARGS__);                                                                                    \
    })

#endif

// Two numbers in one register, the first in the low half.
template <class T>
FAMKERN_DEVICE uint32_t pack(float low, float high) {
    return uint32_t(bits_of(low, T())) | uint32_t(bits_of(high, T())) << 16;
}
template <class T>
FAMKERN_DEVICE float low_of(uint32_t pair) {
    return value_of(T{uint16_t(pair)});
}
template <class T>
FAMKERN_DEVICE float high_of(uint32_t pair) {
    return value_of(T{uint16_t(pair >> 16)});
}

struct alignas(16) Chunk {  // eight numbers of 16 bits: what one instruction moves
    uint32_t pairs[4];
};
struct alignas(16) Four {
    float v[4];
};

}  // namespace famkern::cuda
