// 3x3 convolution of one row of tiles by Winograd's F(4x4, 3x3) [Lavin and Gray 2016], as two one-dimensional passes:
//
//      6 rows of input            columns()            products()                      inverse()
//      in some ring      ->   P[i] = B^T rows   ->   V = B^T P[i], M = U V,   ->   4 rows = A^T Q
//      6 x (4 n + 2) pixels    6 x (4 n + 2)         Q[i] = A^T M: 6 x 4 n          4 x 4 n pixels
//
// for a run of n <= kRun tiles side by side. P and Q stay in the L1 cache, V and (with 32 registers) M never leave the
// registers' neighbourhood. The vertical pass over the input is shared by tiles that overlap. U, the transformed
// weights, is walked through once per run of tiles.
#pragma once

#include "vector.h"

namespace famkern::FAMKERN_ISA {
namespace {

// The register block of products(): kFrequencies x kGroup tiles x kParts vectors of sums, that is 16 output channels.
// 32 registers hold all six frequencies of a row; 16 hold one, for more tiles.
constexpr int kOutputs = 16;
constexpr int kParts = kOutputs / kLanes;
#if defined(FAMKERN_ISA_AVX512)
constexpr int kFrequencies = 6, kGroup = 4, kRun = 8;
#elif defined(FAMKERN_ISA_AVX2)
constexpr int kFrequencies = 1, kGroup = 6, kRun = 12;
#elif defined(__aarch64__)
constexpr int kFrequencies = 1, kGroup = 5, kRun = 10;
#else
constexpr int kFrequencies = 1, kGroup = 3, kRun = 9;
#endif
static_assert(kRun % kGroup == 0);
constexpr int kColumns = 4 * kRun + 2;  // of P

// B^T d
FAMKERN_INLINE void forward(const Vec (&d)[6], Vec (&o)[6]) {
    const Vec two = broadcast(2), four = broadcast(4), minus_four = broadcast(-4), minus_five = broadcast(-5);
    const Vec a = fma(minus_four, d[2], d[4]), b = fma(minus_four, d[1], d[3]);
    const Vec c = d[4] - d[2], e = d[3] - d[1];
    o[0] = fma(four, d[0], fma(minus_five, d[2], d[4]));
    o[1] = a + b;
    o[2] = a - b;
    o[3] = fma(two, e, c);
    o[4] = fma(-two, e, c);
    o[5] = fma(four, d[1], fma(minus_five, d[3], d[5]));
}

// A^T m
FAMKERN_INLINE void inverse(const Vec (&m)[6], Vec (&o)[4]) {
    const Vec a = m[1] + m[2], b = m[1] - m[2], c = m[3] + m[4], d = m[3] - m[4];
    o[0] = m[0] + (a + c);
    o[1] = fma(broadcast(2), d, b);
    o[2] = fma(broadcast(4), c, a);
    o[3] = m[5] + fma(broadcast(8), d, b);
}

// Floats of U for `inputs` x `outputs` channels; outputs are rounded up to whole blocks.
constexpr int64_t packed_floats(int inputs, int outputs) {
    return int64_t(36) * inputs * ((outputs + kOutputs - 1) / kOutputs * kOutputs);
}

// U = G g G^T in the order in which products() walks through it: [i][block][j / kF][input][j % kF][kOutputs].
// weight: (outputs, inputs, 3, 3). In double, since an error in U is one in every pixel.
inline void pack(const float* weight, int inputs, int outputs, float* u) {
    static constexpr double G[6][3] = {{1. / 4, 0, 0},
                                       {-1. / 6, -1. / 6, -1. / 6},
                                       {-1. / 6, 1. / 6, -1. / 6},
                                       {1. / 24, 1. / 12, 1. / 6},
                                       {1. / 24, -1. / 12, 1. / 6},
                                       {0, 0, 1}};
    constexpr int kF = kFrequencies;
    const int blocks = (outputs + kOutputs - 1) / kOutputs;
    for (int block = 0; block < blocks; ++block) {
        const int channels = outputs - block * kOutputs < kOutputs ? outputs - block * kOutputs : kOutputs;
        for (int k = 0; k < inputs; ++k) {
            double g[9][kOutputs] = {}, half[6][3][kOutputs];
            for (int o = 0; o < channels; ++o)
                for (int tap = 0; tap < 9; ++tap)
                    g[tap][o] = weight[(int64_t(block * kOutputs + o) * inputs + k) * 9 + tap];
            for (int i = 0; i < 6; ++i)
                for (int c = 0; c < 3; ++c)
                    for (int o = 0; o < kOutputs; ++o)
                        half[i][c][o] = G[i][0] * g[c][o] + G[i][1] * g[3 + c][o] + G[i][2] * g[6 + c][o];
            for (int i = 0; i < 6; ++i)
                for (int j = 0; j < 6; ++j) {
                    float* to = u + ((((int64_t(i) * blocks + block) * (6 / kF) + j / kF) * inputs + k) * kF + j % kF) *
                                        kOutputs;
                    for (int o = 0; o < kOutputs; ++o)
                        to[o] = float(half[i][0][o] * G[j][0] + half[i][1][o] * G[j][1] + half[i][2][o] * G[j][2]);
                }
        }
    }
}

// P = B^T rows. rows[r]: `count` pixels of K channels; P: [6][kColumns][K].
template <int K>
void columns(const float* const (&rows)[6], int count, float* P) {
    const float* const row[6] = {rows[0], rows[1], rows[2], rows[3], rows[4], rows[5]};  // which no store can change
    for (int x = 0; x < count * K; x += kLanes) {
        Vec d[6], o[6];
        for (int r = 0; r < 6; ++r) d[r] = load(row[r] + x);
        forward(d, o);
        for (int i = 0; i < 6; ++i) store(P + i * kColumns * K + x, o[i]);
    }
}

// Q = A^T (U (B^T P)) along rows, for a run of `tiles` tiles. Q: [6][4 kRun][O].
template <int K, int O, class Between>
void products(const float* P, const float* U, int tiles, float* Q, Between& between) {
    constexpr int kF = kFrequencies;
    alignas(64) float V[6][kGroup][K];
    for (int i = 0; i < 6; ++i) {
        for (int first = 0; first < tiles; first += kGroup) {
            between();
            for (int t = 0; t < kGroup; ++t) {
                const float* p = P + (i * kColumns + 4 * (first + t)) * K;
                for (int k = 0; k < K; k += kLanes) {
                    Vec d[6], o[6];
                    for (int j = 0; j < 6; ++j) d[j] = load(p + j * K + k);
                    forward(d, o);
                    for (int j = 0; j < 6; ++j) store(&V[j][t][k], o[j]);
                }
            }
            for (int block = 0; block < O / kOutputs; ++block) {
                const float* u = U + (i * (O / kOutputs) + block) * 6 * K * kOutputs;
                Vec m[6][kGroup][kParts];
                for (int j = 0; j < 6; j += kF) {
                    Vec sums[kF][kGroup][kParts] = {};
                    const float* v = &V[j][0][0];
#pragma GCC unroll 4
                    for (int k = 0; k < K; ++k, ++v, u += kF * kOutputs) {
#pragma GCC unroll 8
                        for (int f = 0; f < kF; ++f) {
                            Vec w[kParts];
#pragma GCC unroll 8
                            for (int part = 0; part < kParts; ++part) w[part] = load(u + f * kOutputs + part * kLanes);
#pragma GCC unroll 8
                            for (int t = 0; t < kGroup; ++t) {
                                const Vec value = broadcast(v[(f * kGroup + t) * K]);
#pragma GCC unroll 8
                                for (int part = 0; part < kParts; ++part)
                                    sums[f][t][part] = fma(value, w[part], sums[f][t][part]);
                            }
                        }
                    }
#pragma GCC unroll 8
                    for (int f = 0; f < kF; ++f)
#pragma GCC unroll 8
                        for (int t = 0; t < kGroup; ++t)
#pragma GCC unroll 8
                            for (int part = 0; part < kParts; ++part) m[j + f][t][part] = sums[f][t][part];
                }
#pragma GCC unroll 8
                for (int t = 0; t < kGroup; ++t)
#pragma GCC unroll 8
                    for (int part = 0; part < kParts; ++part) {
                        Vec column[6], o[4];
#pragma GCC unroll 8
                        for (int j = 0; j < 6; ++j) column[j] = m[j][t][part];
                        inverse(column, o);
                        float* q = Q + (i * 4 * kRun + 4 * (first + t)) * O + block * kOutputs + part * kLanes;
#pragma GCC unroll 8
                        for (int c = 0; c < 4; ++c) store(q + c * O, o[c]);
                    }
            }
        }
    }
}

}  // namespace
}  // namespace famkern::FAMKERN_ISA
