// One vector of floats, as wide as the instruction set this file is compiled for, and the few things the stages do
// with it. Arithmetic operators are the compiler's own (vector extensions); what they cannot say is below.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(FAMKERN_ISA_AVX512) || defined(FAMKERN_ISA_AVX2)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace famkern::FAMKERN_ISA {
namespace {

#define FAMKERN_INLINE inline __attribute__((always_inline))

#if defined(FAMKERN_ISA_AVX512)
constexpr int kLanes = 16;
#elif defined(FAMKERN_ISA_AVX2)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef int32_t IntVec __attribute__((vector_size(4 * kLanes)));
typedef uint32_t BitVec __attribute__((vector_size(4 * kLanes)));
typedef uint16_t ShortVec __attribute__((vector_size(2 * kLanes)));

// How maps are stored; arithmetic is always in float.
struct Float {
    float value;
};
struct Half {
    uint16_t bits;
};
struct BFloat {
    uint16_t bits;
};

FAMKERN_INLINE Vec load(const float* p) {
    Vec v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

FAMKERN_INLINE void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }

FAMKERN_INLINE Vec broadcast(float a) {
#if defined(FAMKERN_ISA_AVX512)
    return Vec(_mm512_set1_ps(a));
#elif defined(FAMKERN_ISA_AVX2)
    return Vec(_mm256_set1_ps(a));
#else
    return Vec{} + a;
#endif
}

// a * b + c, rounded once where the instruction set can.
FAMKERN_INLINE Vec fma(Vec a, Vec b, Vec c) {
#if defined(FAMKERN_ISA_AVX512)
    return Vec(_mm512_fmadd_ps(a, b, c));
#elif defined(FAMKERN_ISA_AVX2)
    return Vec(_mm256_fmadd_ps(a, b, c));
#elif defined(__aarch64__)
    return Vec(vfmaq_f32(c, a, b));
#else
    return a * b + c;
#endif
}

FAMKERN_INLINE Vec maximum(Vec a, Vec b) {
#if defined(FAMKERN_ISA_AVX512)
    return Vec(_mm512_maskz_max_ps(-1, a, b));  // maskz: GCC 12 warns about its own header otherwise
#elif defined(FAMKERN_ISA_AVX2)
    return Vec(_mm256_max_ps(a, b));
#else
    return a > b ? a : b;
#endif
}

FAMKERN_INLINE Vec minimum(Vec a, Vec b) { return -maximum(-a, -b); }

// ---- storage: kLanes values of a map -------------------------------------------------------------------------------

FAMKERN_INLINE Vec load(const Float* p) { return load(&p->value); }

FAMKERN_INLINE Vec load(const BFloat* p) {
    ShortVec bits;
    std::memcpy(&bits, p, sizeof bits);
    return Vec(__builtin_convertvector(bits, BitVec) << 16);
}

FAMKERN_INLINE Vec load(const Half* p) {
#if defined(FAMKERN_ISA_AVX512)
    return Vec(_mm512_maskz_cvtph_ps(-1, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif defined(FAMKERN_ISA_AVX2)
    return Vec(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(__aarch64__)
    return Vec(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&p->bits))));
#else
    _Float16 values[kLanes];
    std::memcpy(values, p, sizeof values);
    Vec v = {};
    for (int i = 0; i < kLanes; ++i) v[i] = float(values[i]);
    return v;
#endif
}

FAMKERN_INLINE void store(Float* p, Vec v) { std::memcpy(p, &v, sizeof v); }

FAMKERN_INLINE void store(BFloat* p,
                          Vec v) {  // round to nearest even; NaN cannot occur, pictures are checked to be finite
    const BitVec bits = BitVec(v);
    const ShortVec rounded = __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, ShortVec);
    std::memcpy(p, &rounded, sizeof rounded);
}

FAMKERN_INLINE void store(Half* p, Vec v) {
#if defined(FAMKERN_ISA_AVX512)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_maskz_cvtps_ph(-1, v, _MM_FROUND_TO_NEAREST_INT));
#elif defined(FAMKERN_ISA_AVX2)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__aarch64__)
    vst1_u16(&p->bits, vreinterpret_u16_f16(vcvt_f16_f32(v)));
#else
    _Float16 values[kLanes];
    for (int i = 0; i < kLanes; ++i) values[i] = _Float16(v[i]);
    std::memcpy(p, values, sizeof values);
#endif
}

// Stores past the caches, for results too large to be found there again. `p` is aligned to what is stored. Not with
// AVX2: the halves of a line, stored past the caches one after the other, made whole networks 5 to 20 % slower (Zen 3).
FAMKERN_INLINE void stream(Float* p, Vec v) {
#if defined(FAMKERN_ISA_AVX512)
    _mm512_stream_ps(&p->value, v);
#else
    store(p, v);
#endif
}

template <class Short>  // Half, BFloat
FAMKERN_INLINE void stream(Short* p, Vec v) {
#if defined(FAMKERN_ISA_AVX512)
    __m256i bits;
    store(reinterpret_cast<Short*>(&bits), v);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(p), bits);
#else
    store(p, v);
#endif
}

// Makes streamed stores visible to other threads.
FAMKERN_INLINE void end_of_streams() {
#if defined(FAMKERN_ISA_AVX512)
    _mm_sfence();
#endif
}

// ---- functions ------------------------------------------------------------------------------------------------------

// 1 / (1 + exp(-x)), to about 2 units in the last place.
FAMKERN_INLINE Vec sigmoid(Vec x) {
    const Vec y = minimum(maximum(-x, broadcast(-87.0f)), broadcast(87.0f));
    // exp(y) = 2^n exp(r), n the integer nearest to y / ln 2: adding 1.5 * 2^23 leaves it in the low bits.
    const Vec magic = broadcast(12582912.0f);
    const Vec shifted = fma(y, broadcast(1.44269504f), magic);
    const Vec n = shifted - magic;
    const Vec r = fma(n, broadcast(1.42860677e-6f), fma(n, broadcast(-0.693148613f), y));
    Vec e = broadcast(1.0f / 720);
    constexpr float series[] = {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
    for (float c : series) e = fma(e, r, broadcast(c));
    e = Vec(IntVec(e) + (IntVec(shifted) << 23));
    return 1.0f / (1.0f + e);
}

// Half of summing lanes: one vector of sums of two neighbours from two vectors. A blend runs beside an addition, which
// a shuffle often cannot: of what must cross lanes one operand is blended only.
#if defined(FAMKERN_ISA_AVX512)
// In each four lanes: a0 + a2, a1 + a3, b0 + b2, b1 + b3.
FAMKERN_INLINE Vec sum_twos(Vec a, Vec b) {
    return Vec(_mm512_mask_blend_ps(0xcccc, a, b)) + Vec(_mm512_maskz_shuffle_ps(-1, a, b, 0x4e));
}
// In each four lanes: a0 + a1, b0 + b1, a2 + a3, b2 + b3.
FAMKERN_INLINE Vec sum_neighbours(Vec a, Vec b) {
    return Vec(_mm512_mask_blend_ps(0xaaaa, a, b)) +
           Vec(_mm512_maskz_permute_ps(-1, _mm512_mask_blend_ps(0x5555, a, b), 0xb1));
}
#elif defined(FAMKERN_ISA_AVX2)
FAMKERN_INLINE Vec sum_twos(Vec a, Vec b) {
    return Vec(_mm256_blend_ps(a, b, 0xcc)) + Vec(_mm256_shuffle_ps(a, b, 0x4e));
}
FAMKERN_INLINE Vec sum_neighbours(Vec a, Vec b) {
    return Vec(_mm256_blend_ps(a, b, 0xaa)) + Vec(_mm256_permute_ps(_mm256_blend_ps(a, b, 0x55), 0xb1));
}
#endif

// out[i] = sum of the lanes of p(i), for i in 0 .. kLanes - 1. Every sum is added in the same order.
template <class Product>
FAMKERN_INLINE Vec sum_lanes(const Product& p) {
#if defined(FAMKERN_ISA_AVX512) || defined(FAMKERN_ISA_AVX2)
    const auto four = [&](int i)
                          __attribute__((always_inline)) {  // in each four lanes: those lanes' sums of p(i) .. p(i + 3)
                              return sum_neighbours(sum_twos(p(i), p(i + 2)), sum_twos(p(i + 1), p(i + 3)));
                          };
#endif
#if defined(FAMKERN_ISA_AVX512)
    // The same two steps on quarters of a vector.
    const auto twos = [](Vec a, Vec b) __attribute__((always_inline)) {
        return Vec(_mm512_mask_blend_ps(0xff00, a, b)) + Vec(_mm512_maskz_shuffle_f32x4(-1, a, b, 0x4e));
    };
    const Vec a = twos(four(0), four(8)), b = twos(four(4), four(12));
    const Vec crossed = Vec(_mm512_mask_blend_ps(0x0f0f, a, b));
    return Vec(_mm512_mask_blend_ps(0xf0f0, a, b)) + Vec(_mm512_maskz_shuffle_f32x4(-1, crossed, crossed, 0xb1));
#elif defined(FAMKERN_ISA_AVX2)
    const Vec low = four(0), high = four(4);
    return Vec(_mm256_blend_ps(low, high, 0xf0)) + Vec(_mm256_permute2f128_ps(low, high, 0x21));
#else
    Vec sums = {};
    for (int i = 0; i < kLanes; ++i) {
        const Vec v = p(i);
        sums[i] = (v[0] + v[1]) + (v[2] + v[3]);
    }
    return sums;
#endif
}

}  // namespace
}  // namespace famkern::FAMKERN_ISA
