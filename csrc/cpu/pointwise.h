// Products of every pixel of a row with one small matrix, which lead from one level to another.
//
//     out[p][o] += sum over k of in[p][k] w[k][o]
//
// Sums of 16 outputs for a few pixels stay in registers; `w` is at most 32 KiB and stays in the caches.
#pragma once

#include "vector.h"
#include "winograd.h"

namespace famkern::FAMKERN_ISA {
namespace {

// in: `count` pixels of K numbers, `in_step` apart; w: (K, C); out: pixels of C numbers, `out_step` apart.
template <int C>
void add_products(const float* in, int64_t in_step, int K, int64_t count, const float* w, float* out,
                  int64_t out_step) {
    constexpr int kPixels = 6;
    for (int64_t first = 0; first < count; first += kPixels) {
        const float* from[kPixels];
        float* to[kPixels];
        for (int p = 0; p < kPixels; ++p) {  // those that fill up the last few are the last pixel again
            const int64_t at = first + p < count ? first + p : count - 1;
            from[p] = in + at * in_step;
            to[p] = out + at * out_step;
        }
        for (int block = 0; block < C; block += kOutputs) {
            Vec sums[kPixels][kParts];
#pragma GCC unroll 8
            for (int p = 0; p < kPixels; ++p)
#pragma GCC unroll 8
                for (int part = 0; part < kParts; ++part) sums[p][part] = load(to[p] + block + part * kLanes);
            for (int k = 0; k < K; ++k) {
                Vec weight[kParts];
#pragma GCC unroll 8
                for (int part = 0; part < kParts; ++part)
                    weight[part] = load(w + int64_t(k) * C + block + part * kLanes);
#pragma GCC unroll 8
                for (int p = 0; p < kPixels; ++p) {
                    const Vec value = broadcast(from[p][k]);
#pragma GCC unroll 8
                    for (int part = 0; part < kParts; ++part) sums[p][part] = fma(value, weight[part], sums[p][part]);
                }
            }
#pragma GCC unroll 8
            for (int p = 0; p < kPixels; ++p)
#pragma GCC unroll 8
                for (int part = 0; part < kParts; ++part) store(to[p] + block + part * kLanes, sums[p][part]);
        }
    }
}

// `count` numbers of a map as float.
template <class T>
void widen(const T* from, int64_t count, float* to) {  // count: a multiple of 16
    for (int64_t i = 0; i < count; i += kLanes) store(to + i, load(from + i));
}

}  // namespace
}  // namespace famkern::FAMKERN_ISA
