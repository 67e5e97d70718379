// What a stage computes before its first convolution: four rows of ring 0 from the maps that it reads.
//
//     lift          x = pre(normalised picture)        head
//     finish_block  x' = z g pa(z g) + x               block, group, last_group, u_tail
//     weigh         o pa(o), o = sum of w r            tail
//     halve         x = 2x2 of the finer map           down
//     join          x = of coarser map and skip        up
//
// The first three are a thread a pixel, of maps that are copied ahead while the step before is computed; the last two
// are products on tensor cores, a warp a row, of maps that are read where they are needed.
#pragma once

#include "cuda/place.h"

namespace famkern::cuda {

// Gates of rows b .. b + 3 at the corners around the block's columns, linear between those above and below.
template <class P>
FAMKERN_DEVICE void fetch_gates(const P& p, int64_t b) {
    const Arguments& a = p.a;
    const int count = p.gate_count(), line = a.corners * count;
    for (int i = int(threadIdx.x); i < kRows * line; i += kThreads) {
        const int64_t y = b + i / line, column = (a.gate_columns > 1 ? p.first_cell : 0) + i % line / count;
        if (!p.inside(y) || column >= a.gate_columns) continue;
        const int64_t row = y + a.top + a.first_row;
        const int above = a.gate_rows > 1 ? p.cell_at(row) : 0;
        const float* corner = a.gate + ((p.image * a.gate_rows + above) * a.gate_columns + column) * count + i % count;
        float v = *corner;
        if (a.gate_rows > 1) {
            const float down = float(row - above * a.cell) / float(a.cell);
            v += (corner[a.gate_columns * count] - v) * down;
        }
        p.gates[i] = v;
    }
}

// Has what the source needs for rows b .. b + 3 on its way to shared memory.
template <class P>
FAMKERN_DEVICE void fetch(const P& p, int64_t b) {
    const Arguments& a = p.a;
    if constexpr (P::kLifts) {
        for (int i = int(threadIdx.x); i < int(kPictureRows) * kPitch; i += kThreads) {
            const int64_t y = b - 1 + i / kPitch, x = p.begin - 1 + i % kPitch;
            const bool there = p.inside(y) && p.in_width(x);
            for (int c = 0; c < 3; ++c) p.picture[3 * i + c] = there ? p.normalised(y, x, c) : 0.0f;
        }
    } else if constexpr (P::kGated) {
        for (int m = a.direct; m < p.staged_maps(); ++m)
            for (int i = int(threadIdx.x); i < kRows * kLanes * 2; i += kThreads) {
                const int pixel = i / 2;
                const int64_t y = b + pixel / kLanes, x = p.begin + pixel % kLanes;
                const bool there = p.inside(y) && p.in_width(x);
                copy16(p.staged + (m - a.direct) * (kRows * kLanes * 2) + swizzled(pixel, i % 2),
                       p.map(m) + (there ? p.read_at(y, x) * C + i % 2 * 8 : 0), there);
            }
        if (P::kWindows) fetch_gates(p, b);
    }
}

// ---- a thread a pixel: number `i` of the step's --------------------------------------------------------------------

template <class P>
FAMKERN_DEVICE void lift(const P& p, int i, float (&v)[C]) {
    FAMKERN_UNROLL
    for (int o = 0; o < C; ++o) v[o] = p.lift_bias[o];
    for (int row = 0; row < 3; ++row)
        for (int k = 0; k < 9; ++k) {
            const float number = p.picture[((i / kLanes + row) * kPitch + i % kLanes) * 3 + k];
            FAMKERN_UNROLL
            for (int o = 0; o < C; ++o) v[o] += number * p.lift[(row * 9 + k) * C + o];
        }
}

// v += the pixel of map m, `at` in its image, times its gates
template <class P>
FAMKERN_DEVICE void add_pixel(const P& p, int m, int i, int64_t at, float (&v)[C], const float* gates) {
    using T = typename P::T;
    FAMKERN_UNROLL
    for (int half = 0; half < 2; ++half) {
        const Chunk chunk = m < p.a.direct ? load(reinterpret_cast<const Chunk*>(p.map(m) + at * C) + half)
                                           : p.staged[(m - p.a.direct) * (kRows * kLanes * 2) + swizzled(i, half)];
        FAMKERN_UNROLL
        for (int k = 0; k < 4; ++k) {
            const int c = 8 * half + 2 * k;
            v[c] += low_of<T>(chunk.pairs[k]) * (gates != nullptr ? gates[c] : 1.0f);
            v[c + 1] += high_of<T>(chunk.pairs[k]) * (gates != nullptr ? gates[c + 1] : 1.0f);
        }
    }
}

// v += the pixel of map m, times its gates, which begin with number `first` of a corner.
template <class P>
FAMKERN_DEVICE void add_gated(const P& p, int m, int i, int64_t at, float (&v)[C], int first) {
    if (!P::kWindows) return add_pixel(p, m, i, at, v, p.gate + first);
    const int count = p.gate_count(), across = p.a.gate_columns > 1 ? p.pixel_cell - p.first_cell : 0;
    const Four* corner = reinterpret_cast<Four*>(p.gates + (i / kLanes * p.a.corners + across) * count + first);
    const Four* other = corner + (p.a.gate_columns > 1 ? count / 4 : 0);
    float weights[C];
    FAMKERN_UNROLL
    for (int c = 0; c < C; c += 4) {
        const Four from = corner[c / 4], to = other[c / 4];
        FAMKERN_UNROLL
        for (int k = 0; k < 4; ++k) weights[c + k] = from.v[k] + (to.v[k] - from.v[k]) * p.right;
    }
    add_pixel(p, m, i, at, v, weights);
}

// v = v pa(v)
template <class P>
FAMKERN_DEVICE void pixel_attention(const P& p, float (&v)[C]) {
    float logit = *p.output_bias;
    FAMKERN_UNROLL
    for (int u = 0; u < kHidden; ++u) {
        float sum = p.hidden_bias[u];
        FAMKERN_UNROLL
        for (int c = 0; c < C; ++c) sum += v[c] * p.hidden[u * C + c];
        logit += (sum > 0 ? sum : 0.0f) * p.output[u];
    }
    const float attention = 1.0f / (1.0f + exponential(-logit));
    FAMKERN_UNROLL
    for (int c = 0; c < C; ++c) v[c] *= attention;
}

template <class P>
FAMKERN_DEVICE void weigh(const P& p, int i, int64_t at, float (&v)[C]) {
    for (int m = 0; m < p.a.map_count; ++m) add_gated(p, m, i, at, v, m * C);
    pixel_attention(p, v);
}

template <class P>
FAMKERN_DEVICE void finish_block(const P& p, int i, int64_t at, float (&v)[C]) {
    add_gated(p, 1, i, at, v, 0);
    pixel_attention(p, v);
    add_pixel(p, 0, i, at, v, nullptr);
}

// ---- a warp a row --------------------------------------------------------------------------------------------------

// sum (16 pixels x 16 outputs) += 16 pixels of K numbers times weights from row `first` of `crossing` on, which has K
// numbers for each output. This thread is given the pixels in rows g and g + 8 of the product, null for zeros.
template <class T>
FAMKERN_DEVICE void add_products(const T* upper, const T* lower, int K, Chunk* crossing, int first,
                                 float (&sum)[2][4]) {
    const int lane = int(threadIdx.x) % 32, q = lane % 4, row = first + (lane & 7) + (lane >> 4 << 3);
    for (int k = 0; k < K; k += 16) {
        uint32_t pixels[4], w[4];
        FAMKERN_UNROLL
        for (int i = 0; i < 4; ++i) {
            const T* from = i % 2 == 0 ? upper : lower;
            pixels[i] = from == nullptr ? 0 : load(reinterpret_cast<const uint32_t*>(from + k + i / 2 * 8 + 2 * q));
        }
        load_matrices(w, crossing + swizzled(row, k / 8 + (lane >> 3 & 1), K / 8));
        multiply(sum[0], pixels, w[0], w[1], T());
        multiply(sum[1], pixels, w[2], w[3], T());
    }
}

// 16 lanes of row y: those of sums g and g + 8 are given, and the bias of their outputs.
template <class P>
FAMKERN_DEVICE void put_source(const P& p, int64_t y, const int (&lanes)[2], const float (&sum)[2][4],
                               const float* bias) {
    const int q = int(threadIdx.x) % 4;
    Chunk mine;
    FAMKERN_UNROLL
    for (int part = 0; part < 4; ++part) {
        const int half = part % 2, c = 8 * half + 2 * q;
        const bool there = p.inside(y) && p.in_width(p.begin + lanes[part / 2]);
        const float low = sum[half][part / 2 * 2] + bias[c], high = sum[half][part / 2 * 2 + 1] + bias[c + 1];
        mine.pairs[part] = there ? pack<typename P::T>(low, high) : 0;
    }
    const Chunk chunk = transposed(mine);          // thread q: chunk q % 2 of lane q / 2
    const int lane = q < 2 ? lanes[0] : lanes[1];  // not an index, which would put both into local memory
    p.keep(0, y, lane, q % 2, chunk);
    p.write(p.a.out_x, p.a.out_x_stride, y, lane, q % 2, chunk);
}

template <class P>
FAMKERN_DEVICE void halve(const P& p, int64_t y) {
    using T = typename P::T;
    const Crossing& fine = p.a.crossing;
    const T* map = static_cast<const T*>(fine.map.data) + p.image * fine.map.image_stride;
    const int g = int(threadIdx.x) % 32 / 4;
    for (int first = 0; first < kLanes; first += 16) {
        const int lanes[2] = {first + g, first + g + 8};
        float sum[2][4] = {};
        for (int tap = 0; tap < 4; ++tap) {
            const int64_t row = 2 * (y + p.a.top) + tap / 2;
            const T* pixels[2];
            FAMKERN_UNROLL
            for (int i = 0; i < 2; ++i) {
                const int64_t x = p.begin + lanes[i], column = 2 * x + tap % 2;
                const bool there = p.inside(y) && p.in_width(x) && row < fine.rows && column < fine.width;
                pixels[i] = there ? map + (row * fine.width + column) * fine.channels : nullptr;
            }
            add_products(pixels[0], pixels[1], fine.channels, p.crossing, C * tap, sum);
        }
        put_source(p, y, lanes, sum, fine.bias);
    }
}

// Columns of one kind, even or odd, are the lanes 2 g + column of a product: they share pixels of the coarser map.
template <class P>
FAMKERN_DEVICE void join(const P& p, int64_t y) {
    using T = typename P::T;
    const Crossing& coarse = p.a.crossing;
    const T* map = static_cast<const T*>(coarse.map.data) + p.image * coarse.map.image_stride;
    const int g = int(threadIdx.x) % 32 / 4, K = coarse.channels;
    const int64_t picture_row = y + p.a.top + p.a.first_row;
    const int64_t row = (picture_row >> 1) - (p.a.first_row >> 1);
    for (int first = 0; first < kLanes; first += 32)
        for (int column = 0; column < 2; ++column) {
            const int lanes[2] = {first + 2 * g + column, first + 2 * g + 16 + column};
            const int four = 2 * int(picture_row & 1) + column;
            const T *pixels[2], *skip[2];
            FAMKERN_UNROLL
            for (int i = 0; i < 2; ++i) {
                const int64_t x = p.begin + lanes[i];  // begin is even
                const bool there = p.inside(y) && p.in_width(x);
                pixels[i] = there ? map + (row * coarse.width + (x >> 1)) * K : nullptr;
                skip[i] = there ? p.map(0) + p.read_at(y, x) * C : nullptr;
            }
            float sum[2][4] = {};
            add_products(pixels[0], pixels[1], K, p.crossing, C * four, sum);
            add_products(skip[0], skip[1], C, p.crossing + 4 * C * K / 8, 0, sum);
            put_source(p, y, lanes, sum, coarse.bias + four * C);
        }
}

// ---- the source ----------------------------------------------------------------------------------------------------

// Rows b .. b + 3 to ring 0, and to out_x where the stage has that.
template <class P>
FAMKERN_DEVICE void source(const P& p, int64_t b) {
    if constexpr (P::kHalves || P::kJoins) {
        static_assert(kRows == kThreads / 32 && P::kLevels % 2 == 0);
        const int64_t y = b + threadIdx.x / 32;
        if constexpr (P::kHalves)
            halve(p, y);
        else
            join(p, y);
    } else {
        for (int i = int(threadIdx.x); i < kRows * kLanes; i += kThreads) {
            const int lane = i % kLanes;
            const int64_t y = b + i / kLanes, x = p.begin + lane;
            float v[C] = {};
            if (p.inside(y) && p.in_width(x)) {
                if (P::kLifts)
                    lift(p, i, v);
                else if (P::kWeighs)
                    weigh(p, i, p.read_at(y, x), v);
                else
                    finish_block(p, i, p.read_at(y, x), v);
            }
            FAMKERN_UNROLL
            for (int half = 0; half < 2; ++half) {
                Chunk chunk;
                FAMKERN_UNROLL
                for (int k = 0; k < 4; ++k)
                    chunk.pairs[k] = pack<typename P::T>(v[8 * half + 2 * k], v[8 * half + 2 * k + 1]);
                p.keep(0, y, lane, half, chunk);
                if (P::kWritesX) p.write(p.a.out_x, p.a.out_x_stride, y, lane, half, chunk);
            }
        }
    }
}

}  // namespace famkern::cuda
