// Training: a 3x3 convolution C -> C and its gradients, by Winograd's F(4x4, 3x3) throughout.
//
//   forward          y  = A^T [ U .  B^T x B ] A                 U = G w G^T
//   input gradient   the same of g with the adjoint weights      g: the gradient of conv(x) + bias
//   weight gradient  dw = G^T [ sum over tiles of  (A g A^T) (B^T x B)^T ] G      36 products C x C
//
// The backward pass goes through x and g once, strip by strip of four rows: both gradients are made from the strip
// while it is in the cache. Source of the transposed algorithm: it is the derivative of the first line.
#include "cpu/convolution.h"

#include <type_traits>

#include "cpu/rows.h"
#include "cpu/winograd.h"

namespace famkern::FAMKERN_ISA {
namespace {

// A g, for the four values of a column or row of a tile.
FAMKERN_INLINE void outer(const Vec (&g)[4], Vec (&o)[6]) {
    const Vec even = g[0] + g[2], odd = g[1] + g[3];
    const Vec even4 = fma(broadcast(4), g[2], g[0]), odd4 = broadcast(2) * fma(broadcast(4), g[3], g[1]);
    o[0] = g[0];
    o[1] = even + odd;
    o[2] = even - odd;
    o[3] = even4 + odd4;
    o[4] = even4 - odd4;
    o[5] = g[3];
}

template <int C>
class Strips {
   public:
    static constexpr int kTiles = 2 * kRun;  // of which the weight gradient is summed in registers
    static constexpr int64_t kP = 6 * kColumns * C, kQ = 6 * 4 * kRun * C, kResult = 4 * 4 * kRun * C;
    static constexpr int64_t kFrequency = 36 * kTiles * C;

    static int64_t columns_for(int64_t width) { return (width + 3) / 4 * 4 + 4 * kTiles + 2; }
    static int64_t scratch_floats(const Rows& rows) {
        return 2 * 8 * ring_stride(columns_for(rows.width), C) + kP + kQ + kResult + 2 * kFrequency;
    }

    Strips(const ConvolutionJob& job, int64_t task, float* scratch)
        : job(job),
          W(job.rows.width),
          H(job.rows.height),
          image(task / job.rows.tasks_each()),
          first_row(task % job.rows.tasks_each() * job.rows.rows_each),
          end_row(least(first_row + job.rows.rows_each, H)),
          tiles_across((W + 3) / 4),
          sums(job.sums + task * C),
          products_sum(job.products == nullptr ? nullptr : job.products + task * 36 * C * C) {
        const int64_t stride = ring_stride(columns_for(W), C);
        ring = {scratch, 8, stride, -1, C};
        x_ring = {scratch + 8 * stride, 8, stride, -1, C};
        const Ring* const rings[] = {&ring, &x_ring};
        for (const Ring* rows : rings)  // columns outside the image, which nothing else writes
            for (int64_t slot = 0; slot < rows->rows; ++slot) {
                std::memset(rows->at(slot, -1), 0, C * sizeof(float));
                std::memset(rows->at(slot, W), 0, (4 * tiles_across + 1 - W) * C * sizeof(float));
            }
        P = scratch + 16 * stride;
        std::memset(P, 0, kP * sizeof(float));  // tiles that fill up a group read it and are thrown away
        Q = P + kP;
        result = Q + kQ;
        V = result + kResult;
        M = V + kFrequency;
    }

    void forward() {
        for (int64_t y = first_row, next = y - 1; y < end_row; y += 4) {
            for (; next <= y + 4; ++next) copy_row(job.x, next, ring);
            const auto finish = [&](const float* const(&from)[4], int64_t x, int64_t count) {
                for (int r = 0; r < 4 && y + r < end_row; ++r)
                    write_row<C, false>(from[r], reinterpret_cast<Float*>(job.out + at(y + r, x)), count, sums);
            };
            if (job.residual)
                convolve(
                    y,
                    [&](int r, int64_t x, int64_t i, Vec v) {
                        return maximum(v + load(job.bias + i % C), Vec{}) + load(ring.at(y + r, x) + i);
                    },
                    finish);
            else
                convolve(y, [&](int, int64_t, int64_t i, Vec v) { return v + load(job.bias + i % C); }, finish);
        }
    }

    void backward() {
        std::memset(products_sum, 0, 36 * C * C * sizeof(float));
        for (int64_t y = first_row, next = y - 1; y < end_row; y += 4) {
            for (; next <= y + 4; ++next) {
                copy_row(job.x, next, x_ring);
                gradient_row(next);
            }
            weight_gradient(y);
            if (job.out == nullptr) continue;
            convolve(
                y,
                [&](int r, int64_t x, int64_t i, Vec v) {
                    return job.residual && y + r < H ? v + gradient_at(y + r, x, i) : v;
                },
                [&](const float* const(&from)[4], int64_t x, int64_t count) {
                    for (int r = 0; r < 4 && y + r < end_row; ++r)
                        std::memcpy(job.out + at(y + r, x), from[r], count * C * sizeof(float));
                });
        }
    }

   private:
    int64_t at(int64_t y, int64_t x) const { return ((image * H + y) * W + x) * C; }

    void copy_row(const float* map, int64_t y, const Ring& to) const {
        if (y < 0 || y >= H)
            std::memset(to.at(y, 0), 0, W * C * sizeof(float));
        else
            std::memcpy(to.at(y, 0), map + at(y, 0), W * C * sizeof(float));
    }

    // The gradient of y at element i after pixel (y, x).
    FAMKERN_INLINE Vec gradient_at(int64_t y, int64_t x, int64_t i) const {
        const Vec offset = job.offset == nullptr ? Vec{} : load(job.offset + image * C + i % C);
        return job.gradient == nullptr ? offset : load(job.gradient + at(y, x) + i) + offset;
    }

    // A row of g. The rectifier let something through exactly where y differs from x, but for what rounding lost.
    void gradient_row(int64_t y) {
        float* const row = ring.at(y, 0);
        if (y < 0 || y >= H) {
            std::memset(row, 0, W * C * sizeof(float));
            return;
        }
        Vec sum[C / kLanes] = {};
        const bool own = y >= first_row && y < end_row;
        const float *x_row = job.x + at(y, 0), *y_row = job.residual ? job.y + at(y, 0) : nullptr;
        for (int64_t i = 0; i < W * C; i += C)
            for (int part = 0; part < C / kLanes; ++part) {
                const int64_t e = i + part * kLanes;
                Vec g = gradient_at(y, 0, e);
                if (job.residual) g = load(y_row + e) != load(x_row + e) ? g : Vec{};
                store(row + e, g);
                sum[part] += g;
            }
        for (int c = 0; own && c < C; ++c) sums[c] += double(sum[c / kLanes][c % kLanes]);
    }

    // The convolution of `ring` in a strip: combine(row, x, element, value) before finish(rows, x, count).
    template <class Combine, class Finish>
    void convolve(int64_t y, const Combine& combine, const Finish& finish) {
        float* rows_out[4];
        for (int r = 0; r < 4; ++r) rows_out[r] = result + r * 4 * kRun * C;
        const auto nothing = [] {};
        for (int64_t tile = 0; tile < tiles_across; tile += kRun) {
            const int tiles = int(least(kRun, tiles_across - tile));
            const int64_t x = 4 * tile, count = least(4 * tiles, W - x);
            columns_of(ring, y, x, tiles);
            products<C, C>(P, job.packed, tiles, Q, nothing);
            for (int64_t i = 0; i < count * C; i += kLanes) {
                Vec m[6], o[4];
                for (int r = 0; r < 6; ++r) m[r] = load(Q + r * 4 * kRun * C + i);
                inverse(m, o);
                for (int r = 0; r < 4; ++r) store(rows_out[r] + i, combine(r, x, i, o[r]));
            }
            const float* const from[4] = {rows_out[0], rows_out[1], rows_out[2], rows_out[3]};
            finish(from, x, count);
        }
    }

    void columns_of(const Ring& from, int64_t y, int64_t x, int tiles) {
        const float* rows[6];
        for (int i = 0; i < 6; ++i) rows[i] = from.at(y - 1 + i, x - 1);
        columns<C>(rows, 4 * tiles + 2, P);
    }

    void weight_gradient(int64_t y) {
        for (int64_t tile = 0; tile < tiles_across; tile += kTiles) {
            const int tiles = int(least(kTiles, tiles_across - tile));
            for (int first = 0; first < tiles; first += kRun) {
                const int run = int(least(kRun, tiles - first));
                columns_of(x_ring, y, 4 * (tile + first), run);
                input_frequencies(first, run);
            }
            gradient_frequencies(y, tile, tiles);
            for (int frequency = 0; frequency < 36; ++frequency) outer_products(frequency, tiles);
        }
    }

    // V = B^T x B from P.
    void input_frequencies(int first, int run) {
        for (int i = 0; i < 6; ++i)
            for (int t = 0; t < run; ++t)
                for (int k = 0; k < C; k += kLanes) {
                    const float* p = P + (i * kColumns + 4 * t) * C + k;
                    Vec d[6], o[6];
                    for (int j = 0; j < 6; ++j) d[j] = load(p + j * C);
                    famkern::FAMKERN_ISA::forward(d, o);
                    for (int j = 0; j < 6; ++j) store(V + ((i * 6 + j) * kTiles + first + t) * C + k, o[j]);
                }
    }

    // M = A g A^T.
    void gradient_frequencies(int64_t y, int64_t tile, int tiles) {
        const float* rows[4];
        for (int r = 0; r < 4; ++r) rows[r] = ring.at(y + r, 4 * tile);
        for (int t = 0; t < tiles; ++t)
            for (int k = 0; k < C; k += kLanes) {
                Vec half[4][6];
                for (int c = 0; c < 4; ++c) {
                    Vec g[4];
                    for (int r = 0; r < 4; ++r) g[r] = load(rows[r] + (4 * t + c) * C + k);
                    outer(g, half[c]);
                }
                for (int i = 0; i < 6; ++i) {
                    const Vec line[4] = {half[0][i], half[1][i], half[2][i], half[3][i]};
                    Vec o[6];
                    outer(line, o);
                    for (int j = 0; j < 6; ++j) store(M + ((i * 6 + j) * kTiles + t) * C + k, o[j]);
                }
            }
    }

    // products_sum[frequency] += V M^T over the tiles: [input][output].
    void outer_products(int frequency, int tiles) {
#if defined(FAMKERN_ISA_AVX512)
        constexpr int kInputs = 16;
#else
        constexpr int kInputs = 4;
#endif
        const float *v = V + frequency * kTiles * C, *m = M + frequency * kTiles * C;
        for (int o = 0; o < C; o += kOutputs)
            for (int k = 0; k < C; k += kInputs) {
                float* const to = products_sum + (frequency * C + k) * C + o;
                Vec sum[kInputs][kParts];
#pragma GCC unroll 16
                for (int i = 0; i < kInputs; ++i)
#pragma GCC unroll 8
                    for (int part = 0; part < kParts; ++part) sum[i][part] = load(to + i * C + part * kLanes);
                for (int t = 0; t < tiles; ++t) {
                    Vec g[kParts];
#pragma GCC unroll 8
                    for (int part = 0; part < kParts; ++part) g[part] = load(m + t * C + o + part * kLanes);
#pragma GCC unroll 16
                    for (int i = 0; i < kInputs; ++i) {
                        const Vec value = broadcast(v[t * C + k + i]);
#pragma GCC unroll 8
                        for (int part = 0; part < kParts; ++part) sum[i][part] = fma(value, g[part], sum[i][part]);
                    }
                }
#pragma GCC unroll 16
                for (int i = 0; i < kInputs; ++i)
#pragma GCC unroll 8
                    for (int part = 0; part < kParts; ++part) store(to + i * C + part * kLanes, sum[i][part]);
            }
    }

    const ConvolutionJob& job;
    const int64_t W, H, image, first_row, end_row, tiles_across;
    double* const sums;
    float* const products_sum;
    Ring ring, x_ring;
    float *P, *Q, *result, *V, *M;
};

// ---- the gate ------------------------------------------------------------------------------------------------------

template <int C>
class Gate {
   public:
    static constexpr int kHidden = C / 8, kParts = C / kLanes;

    Gate(const GateJob& job, int64_t task)
        : job(job),
          image(task / job.rows.tasks_each()),
          gate(job.gate + image * C),
          attention(job.pixel, gate),
          sums(job.sums == nullptr ? nullptr : job.sums + task * gate_sums(C)) {
        const int64_t row = task % job.rows.tasks_each() * job.rows.rows_each;
        first = (image * job.rows.height + row) * job.rows.width * C;
        pixels = least(job.rows.rows_each, job.rows.height - row) * job.rows.width;
    }

    void forward() const {
        const float *z = job.z + first, *x = job.x == nullptr ? nullptr : job.x + first;
        float* out = job.out + first;
        attention(z, pixels, [&](int64_t i, Vec weight) {
            const Vec u = load(z + i) * load(gate + i % C);
            store(out + i, x == nullptr ? u * weight : fma(u, weight, load(x + i)));
        });
    }

    void backward() const {
        constexpr int64_t kBlock = 256;  // pixels whose sums are kept in float
        for (int64_t p = 0; p < pixels; p += kBlock) block(first + p * C, least(kBlock, pixels - p));
    }

   private:
    void block(int64_t start, int64_t count) const {
        const float *z = job.z + start, *d = job.gradient + start;
        float* out = job.out + start;
        Vec gate_sum[kParts] = {}, weight1_sum[kHidden][kParts] = {};
        Vec bias1_sum[kHidden] = {}, weight2_sum[kHidden] = {}, bias2_sum = {};
        for (int64_t first = 0; first < count; first += kLanes) {
            const int64_t here = least(kLanes, count - first);
            const auto along = [&](const auto& product) {  // of kLanes pixels, 0 where there are none
                Vec sum = sum_lanes([&](int i) __attribute__((always_inline)) {
                    const int64_t p = (first + least(i, here - 1)) * C;
                    Vec sum = product(p, 0);
                    for (int c = kLanes; c < C; c += kLanes) sum += product(p, c);
                    return sum;
                });
                for (int64_t i = here; i < kLanes; ++i) sum[i] = 0;
                return sum;
            };
            Vec hidden[kHidden], logit = broadcast(job.pixel[3][0]);
            for (int u = 0; u < kHidden; ++u) {
                const Vec sum =
                    along([&](int64_t p, int c) { return load(z + p + c) * load(attention.weight1[u] + c); });
                hidden[u] = maximum(sum + attention.bias1[u], Vec{});
                logit = fma(hidden[u], broadcast(attention.weight2[u]), logit);
            }
            const Vec weight = sigmoid(logit);
            const Vec slope =
                along([&](int64_t p, int c) { return load(d + p + c) * load(z + p + c) * load(gate + c); }) * weight *
                (1.0f - weight);
            float weights[kLanes], slopes[kHidden][kLanes];
            store(weights, weight);
            bias2_sum += slope;
            for (int u = 0; u < kHidden; ++u) {
                weight2_sum[u] += slope * hidden[u];
                const Vec s = hidden[u] > 0.0f ? slope * attention.weight2[u] : Vec{};
                bias1_sum[u] += s;
                store(slopes[u], s);
            }
            for (int64_t i = 0; i < here; ++i)
                for (int part = 0; part < kParts; ++part) {
                    const int c = part * kLanes;
                    const int64_t e = (first + i) * C + c;
                    const Vec value = load(z + e);
                    Vec g = load(d + e) * broadcast(weights[i]);  // the gradient of z gate
                    for (int u = 0; u < kHidden; ++u) {
                        const Vec s = broadcast(slopes[u][i]);
                        g = fma(s, load(job.pixel[0] + u * C + c), g);
                        weight1_sum[u][part] = fma(s, value, weight1_sum[u][part]);
                    }
                    store(out + e, g * load(gate + c));
                    gate_sum[part] = fma(g, value, gate_sum[part]);
                }
        }
        double* to = sums;
        const auto add = [&](const Vec* sum, bool gated) {
            for (int c = 0; c < C; ++c) *to++ += double(sum[c / kLanes][c % kLanes]) * (gated ? double(gate[c]) : 1.0);
        };
        const auto add_all = [&](Vec sum) {
            double total = 0;
            for (int i = 0; i < kLanes; ++i) total += double(sum[i]);
            *to++ += total;
        };
        add(gate_sum, false);
        for (int u = 0; u < kHidden; ++u) add(weight1_sum[u], true);
        for (int u = 0; u < kHidden; ++u) add_all(bias1_sum[u]);
        for (int u = 0; u < kHidden; ++u) add_all(weight2_sum[u]);
        add_all(bias2_sum);
    }

    const GateJob& job;
    const int64_t image;
    const float* const gate;
    const PixelAttention<C> attention;
    double* const sums;
    int64_t first, pixels;
};

// ---- tables --------------------------------------------------------------------------------------------------------

// body(channels as a constant)
template <class Body>
auto with_channels(int channels, const Body& body) {
    switch (channels) {
        case 16:
            return body(std::integral_constant<int, 16>());
        case 32:
            return body(std::integral_constant<int, 32>());
        default:
            return body(std::integral_constant<int, 64>());
    }
}

int64_t packed_floats_of(int channels) { return packed_floats(channels, channels); }

void pack_one(const float* weight, int channels, float* packed) { pack(weight, channels, channels, packed); }

int64_t scratch_floats(const Rows& rows) {
    return with_channels(rows.channels, [&](auto C) { return Strips<C>::scratch_floats(rows); });
}

void convolution_forward(const ConvolutionJob& job, int64_t task, float* scratch) {
    with_channels(job.rows.channels, [&](auto C) { Strips<C>(job, task, scratch).forward(); });
}

void convolution_backward(const ConvolutionJob& job, int64_t task, float* scratch) {
    with_channels(job.rows.channels, [&](auto C) { Strips<C>(job, task, scratch).backward(); });
}

void gate_forward(const GateJob& job, int64_t task) {
    with_channels(job.rows.channels, [&](auto C) { Gate<C>(job, task).forward(); });
}

void gate_backward(const GateJob& job, int64_t task) {
    with_channels(job.rows.channels, [&](auto C) { Gate<C>(job, task).backward(); });
}

}  // namespace

extern const ConvolutionKernels convolution_kernels;
const ConvolutionKernels convolution_kernels = {packed_floats_of, pack_one, scratch_floats, convolution_forward,
                                                convolution_backward};
extern const GateKernels gate_kernels;
const GateKernels gate_kernels = {gate_forward, gate_backward};

}  // namespace famkern::FAMKERN_ISA
