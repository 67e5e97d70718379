// What the stages do to rows of pixels outside the convolutions: rings of rows, prefetching, pixel attention, storing.
#pragma once

#include "vector.h"

namespace famkern::FAMKERN_ISA {
namespace {

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// The latest rows of an intermediate around the columns of a task, row y in slot y mod `rows`.
struct Ring {
    float* data;
    int64_t rows;        // 8 or 12, see ring_rows()
    int64_t row_stride;  // floats
    int64_t first_column;
    int channels;

    float* at(int64_t y, int64_t x) const {
        constexpr int64_t kShift = 48;  // rows above the band are negative, and more than -48
        return data + (y + kShift) % rows * row_stride + (x - first_column) * channels;
    }
};

// Ring 0 holds the six rows under a strip of tiles; the others hold them while the next strip is written.
constexpr int64_t ring_rows(int level) { return level == 0 ? 8 : 12; }

// Floats from row to row. Not whole pages: all rows of a column would fall into one set of a cache.
inline int64_t ring_stride(int64_t columns, int channels) { return round_up(columns * channels, 1024) + 16 * 9; }

// Asks for the rows of the maps that the next strip needs, a few lines at a time, while this strip is computed: memory
// works while arithmetic does.
struct Ahead {
    static constexpr int kMost = 32;
    const char* rows[kMost];
    int count = 0, row = 0;
    int64_t bytes = 0;  // of each row
    int64_t at = 0, step = 0;

    void add(const void* address) {
        if (count < kMost) rows[count++] = static_cast<const char*>(address);
    }

    void plan(int64_t row_bytes, int64_t calls) {
        bytes = row_bytes;
        step = round_up(count * bytes / most(calls, 1), 64) + 64;
    }

    void operator()() {
        if (row == count) return;
        for (const int64_t end = least(at + step, bytes); at < end; at += 64) __builtin_prefetch(rows[row] + at, 0, 2);
        if (at >= bytes) ++row, at = 0;
    }
};

// Pixel attention sigmoid(W2 relu(W1 p + b1) + b2). W1, (C/8, C), may have a channel gate multiplied into it.
template <int C>
struct PixelAttention {
    alignas(64) float weight1[C / 8][C];
    const float *bias1, *weight2, *bias2;

    PixelAttention(const float* const (&parameters)[4], const float* gate)
        : bias1(parameters[1]), weight2(parameters[2]), bias2(parameters[3]) {
        for (int u = 0; parameters[0] != nullptr && u < C / 8; ++u)
            for (int c = 0; c < C; ++c) weight1[u][c] = parameters[0][u * C + c] * (gate != nullptr ? gate[c] : 1.0f);
    }

    // Calls body(i, weight) for every vector of `count` pixels, i its first element.
    template <class T, class Body>
    void operator()(const T* pixels, int64_t count, const Body body) const {
        int64_t first = 0;
        for (; first + kLanes <= count; first += kLanes) some(pixels + first * C, first, kLanes, body);
        if (first < count) {
            T filled[kLanes * C] = {};  // the last few, for memory behind them may be nobody's
            std::memcpy(filled, pixels + first * C, (count - first) * C * sizeof(T));
            some(filled, first, count - first, body);
        }
    }

   private:
    template <class T, class Body>
    FAMKERN_INLINE void some(const T* pixels, int64_t first, int64_t count, const Body body) const {
        Vec logit = broadcast(bias2[0]);
        for (int u = 0; u < C / 8; ++u) {
            const Vec hidden = sum_lanes([&](int i) __attribute__((always_inline)) {
                const T* p = pixels + i * C;
                Vec sum = load(p) * load(weight1[u]);
                for (int c = kLanes; c < C; c += kLanes) sum = fma(load(p + c), load(weight1[u] + c), sum);
                return sum;
            });
            logit = fma(maximum(hidden + bias1[u], Vec{}), broadcast(weight2[u]), logit);
        }
        alignas(64) float weights[kLanes];
        store(weights, sigmoid(logit));
        for (int64_t i = 0; i < count; ++i)
            for (int c = 0; c < C; c += kLanes) body((first + i) * C + c, broadcast(weights[i]));
    }
};

// sums[c] += sum of channel c.
template <int C>
FAMKERN_INLINE void add_lanes(const Vec (&sum)[C / kLanes], double* sums) {
    for (int c = 0; c < C; ++c) sums[c] += double(sum[c / kLanes][c % kLanes]);
}

// Stores `count` pixels as maps are stored and adds them to the sums of their row, if there are any: in float here,
// over one run of tiles at most, and then in double.
template <int C, bool kStream, class T>
void write_row(const float* from, T* to, int64_t count, double* sums) {
    Vec sum[C / kLanes] = {};
    for (int64_t i = 0; i < count * C; i += C)
        for (int part = 0; part < C / kLanes; ++part) {
            const Vec v = load(from + i + part * kLanes);
            if constexpr (kStream)
                stream(to + i + part * kLanes, v);
            else
                store(to + i + part * kLanes, v);
            sum[part] += v;
        }
    if (sums != nullptr) add_lanes<C>(sum, sums);
}

}  // namespace
}  // namespace famkern::FAMKERN_ISA
