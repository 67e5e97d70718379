// The convolutions of a stage, and what becomes of their results.
//
// A convolution is a product on tensor cores for each of nine taps: 16 pixels of a row (a) by 16 x 16 weights (b). A
// warp computes four rows of 16 columns, so that a row of a ring, once in registers, serves three rows of results.
//
//     convolve   rows y .. y + 3 of a level, of which a warp has 16 columns
//     put        ... one row of them: residual or skip, then to the ring of the level (keep), to the results (write)
//                and into the sums of the row (write_sums)
//     write_picture   ... or, of the last level of a tail, to the picture
//
// In the results of a product a thread has the channels 2 q, 2 q + 1, 8 + 2 q and 9 + 2 q of two pixels, g and g + 8.
#pragma once

#include "cuda/place.h"

namespace famkern::cuda {

// Sums of a row over this warp's columns, by cells: `values` are of pixels g and g + 8, of both halves each.
template <class P>
FAMKERN_DEVICE void write_sums(const P& p, int index, int r, int segment, const float (&values)[4][2]) {
    const int g = int(threadIdx.x) % 32 / 4, q = int(threadIdx.x) % 4;
    for (int slot = 0; slot < p.slots(); ++slot) {
        // The cell's first lane; one that begins after the warp's columns adds nothing.
        const int64_t first = P::kWindows ? (p.warp_cell + slot) * p.a.cell - p.begin : 0;
        float total[4] = {};
        if (!P::kWindows || first < 16 * (segment + 1)) {
            FAMKERN_UNROLL
            for (int part = 0; part < 4; ++part) {
                const int lane = 16 * segment + g + part / 2 * 8;
                if (!p.own_lane(lane) || (P::kWindows && (lane < first || lane >= first + p.a.cell))) continue;
                total[part % 2 * 2] += values[part][0];
                total[part % 2 * 2 + 1] += values[part][1];
            }
            FAMKERN_UNROLL
            for (int i = 0; i < 4; ++i)
                for (int mask = 4; mask < 32; mask *= 2) total[i] += other_lane(total[i], mask);
        }
        if (g != 0) continue;
        float* to = p.sums + (((index * kRows + r) * kSegments + segment) * p.slots() + slot) * C;
        FAMKERN_UNROLL
        for (int i = 0; i < 4; ++i) to[i / 2 * 8 + 2 * q + i % 2] = total[i];
    }
}

// The sums that the step at row b left behind, of all segments, to global memory.
template <class P>
FAMKERN_DEVICE void add_sums(const P& p, int64_t b) {
    const Arguments& a = p.a;
    for (int i = int(threadIdx.x); i < P::kSums * kRows * p.parts() * C; i += kThreads) {
        const int c = i % C, part = i / C % p.parts(), r = i / C / p.parts() % kRows, index = i / C / p.parts() / kRows;
        const int64_t y = b - (P::kEmits && index == 0 ? 1 : P::kLevels) + r;
        if (!p.own_row(y)) continue;
        float total = 0;
        for (int segment = 0; segment < kSegments; ++segment) {
            const int slot = P::kWindows ? p.own_cell() + part - p.cell_at(p.begin + 16 * segment) : 0;
            if (slot < 0 || slot >= p.slots()) continue;
            total += p.sums[(((index * kRows + r) * kSegments + segment) * p.slots() + slot) * C + c];
        }
        store(a.partial[index] + (((p.image * a.rows + y) * a.blocks + p.block) * p.parts() + part) * C + c, total);
    }
}

template <int kLevel, class P>
FAMKERN_DEVICE void put(const P& p, int r, int64_t y, int segment, const float (&sum)[2][4]) {
    using T = typename P::T;
    constexpr bool kSkip = P::kSkips && kLevel == 1, kLast = kLevel == P::kLevels;
    constexpr bool kResidual = !kSkip && !kLast && !P::kMakesPicture, kOut = (P::kEmits && kSkip) || kLast;
    constexpr int kIndex = P::kEmits && !kSkip ? 1 : 0;
    const int g = int(threadIdx.x) % 32 / 4, q = int(threadIdx.x) % 4;
    const float* bias = p.a.bias[kLevel - 1];
    float values[4][2];
    Chunk mine;  // both chunks of pixel g, then of g + 8: pairs that belong to this thread
    FAMKERN_UNROLL
    for (int part = 0; part < 4; ++part) {
        const int lane = 16 * segment + g + part / 2 * 8, half = part % 2, c = 8 * half + 2 * q;
        const int64_t x = p.begin + lane;
        const bool there = p.inside(y) && p.in_width(x);
        float low = sum[half][part / 2 * 2] + bias[c];
        float high = sum[half][part / 2 * 2 + 1] + bias[c + 1];
        if (kResidual) {
            const uint32_t pair = p.ring(kLevel - 1)[swizzled(p.pixel(y, lane), half)].pairs[q];
            low = (low > 0 ? low : 0.0f) + low_of<T>(pair);
            high = (high > 0 ? high : 0.0f) + high_of<T>(pair);
        }
        if (kSkip && there) {
            const uint32_t pair = load(reinterpret_cast<const uint32_t*>(p.map(2) + p.read_at(y, x) * C + c));
            low += low_of<T>(pair);
            high += high_of<T>(pair);
        }
        mine.pairs[part] = there ? pack<T>(low, high) : 0;
        values[part][0] = low;
        values[part][1] = high;
    }
    const Chunk chunk = transposed(mine);  // thread q: chunk q % 2 of pixel g + q / 2 * 8
    const int lane = 16 * segment + g + q / 2 * 8;
    if (!kLast) p.keep(kLevel, y, lane, q % 2, chunk);
    if (!kOut) return;
    p.write(p.a.out[kIndex], p.a.out_stride[kIndex], y, lane, q % 2, chunk);
    write_sums(p, kIndex, r, segment, values);
}

// out = clamp(o + x1), or clamp(K x1 - B + x1), x1 the normalised picture: threads q = 0 and 1 have the three channels
// of o or B, and behind them K.
template <class P>
FAMKERN_DEVICE void write_picture(const P& p, int64_t y, int first, const float (&sum)[4]) {
    const Arguments& a = p.a;
    const int g = int(threadIdx.x) % 32 / 4, q = int(threadIdx.x) % 4;
    const float* bias = a.bias[P::kLevels - 1];
    const bool gain = a.post == 4;
    FAMKERN_UNROLL
    for (int i = 0; i < 4; ++i) {
        const int lane = first + g + i / 2 * 8, c = 2 * q + i % 2;
        const int64_t x = p.begin + lane;
        const float neighbour = other_lane(sum[i | 1], 1);
        const float K = gain ? (q == 0 ? neighbour : sum[i | 1]) + bias[0] : 0.0f;
        if (c >= 3 || !p.own_row(y) || !p.own_lane(lane)) continue;
        const float x1 = p.normalised(y, x, c), o = sum[i] + bias[gain ? c + 1 : c];
        const float v = gain ? K * x1 - o + x1 : o + x1;
        store(static_cast<float*>(a.out[0]) + p.image * a.out_stride[0] + (y * a.width + x) * 3 + c, v < 0   ? 0.0f
                                                                                                     : v > 1 ? 1.0f
                                                                                                             : v);
    }
}

// Level 1, 2, ...: rows y .. y + 3, of which this warp has 16 columns.
template <int kLevel, class P>
FAMKERN_DEVICE void convolve(const P& p, int64_t y) {
    using T = typename P::T;
    const int lane = int(threadIdx.x) % 32, segment = int(threadIdx.x) / 32;
    constexpr bool kPicture = P::kMakesPicture && kLevel == P::kLevels;  // half of the outputs are not needed
    float sum[kRows][2][4] = {};
    uint32_t w[9][4];
    FAMKERN_UNROLL
    for (int tap = 0; tap < 9; ++tap)
        load_matrices(w[tap], p.weights + (kLevel - 1) * kTaps + tap * (2 * C) +
                                  swizzled((lane & 7) + (lane >> 4 << 3), lane >> 3 & 1));
    const Chunk* from = p.ring(kLevel - 1);
    FAMKERN_UNROLL
    for (int row = 0; row < kRows + 2; ++row) FAMKERN_UNROLL
    for (int dx = 0; dx < 3; ++dx) {
        uint32_t pixels[4];
        load_matrices(pixels, from + swizzled(p.pixel(y - 1 + row, 16 * segment + dx - 1 + (lane & 15)), lane >> 4));
        FAMKERN_UNROLL
        for (int dy = 0; dy < 3; ++dy) {
            const int r = row - dy;
            if (r < 0 || r >= kRows) continue;
            multiply(sum[r][0], pixels, w[3 * dy + dx][0], w[3 * dy + dx][1], T());
            if (!kPicture) multiply(sum[r][1], pixels, w[3 * dy + dx][2], w[3 * dy + dx][3], T());
        }
    }
    FAMKERN_UNROLL
    for (int r = 0; r < kRows; ++r) {
        if constexpr (kPicture)
            write_picture(p, y + r, 16 * segment, sum[r][0]);
        else
            put<kLevel>(p, r, y + r, segment, sum[r]);
    }
}

}  // namespace famkern::cuda
