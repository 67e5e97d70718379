// Pooled feature maps, their sums and differences, and the Gram matrix of those, in one pass over each feature map:
//
//     student  [C, H, W] -- pool x pool means --> S' [C, N] \            [ S' - T' ]
//     teacher  [C, H, W] -- pool x pool means --> T' [C, N] / --> M  =   [ S' + T' ]  [K, N],   gram = M M^T  [K, K]
//
// and the way back, which writes a gradient at full resolution from pooled maps in one pass:
//
//     gradient [C, H, W] = every position of (coefficients [C, K] x maps [K, N]) / pool^2, repeated over its window
//
// A chunk walks down its pooled rows in segments of kTile positions. A segment lies in the L1 cache from the first
// reading of its windows to the last product; all of it is float64, for what matters is S' - T', which is small when
// the student is good. Sums run down the window's rows first, which vectorises, then across.
#include <cmath>

#include "cpu/affinity.h"
#include "cpu/formats.h"
#include "cpu/products.h"

namespace famkern::FAMKERN_ISA {

extern const AffinityMapsKernels affinity_maps_kernels;

namespace {

using Vector = Simd<double>::Vector;
constexpr int kWidth = Simd<double>::kWidth;

// The sum of `rows` values row_stride apart, four by four; Read makes one element, or a vector of neighbours, wide.
template <class Sum, class In, class Read>
inline Sum sum_column(const In* source, int64_t rows, int64_t row_stride, Read read) {
    Sum sum{};
    for (; rows >= 4; rows -= 4, source += 4 * row_stride)
        sum += (read(source) + read(source + row_stride)) +
               (read(source + 2 * row_stride) + read(source + 3 * row_stride));
    for (; rows > 0; --rows, source += row_stride) sum += read(source);
    return sum;
}

// sums[x] = source[0][x] + ... + source[rows - 1][x]. `next` is where the following call reads: windows are short runs
// in many rows, which the hardware does not foresee.
template <class In>
void sum_rows(const In* source, const In* next, int64_t rows, int64_t row_stride, int64_t column_stride, int64_t length,
              double* sums) {
    constexpr int64_t kLine = 64 / sizeof(In);
    int64_t x = 0;
    if (column_stride == 1)
        for (; x + kWidth <= length; x += kWidth) {
            if (x % kLine == 0)
                for (int64_t r = 0; r < rows; ++r) __builtin_prefetch(next + x + r * row_stride, 0, 2);
            const Vector sum =
                sum_column<Vector>(source + x, rows, row_stride, [](const In* p) { return widen_vector(p); });
            std::memcpy(sums + x, &sum, sizeof sum);
        }
    for (; x < length; ++x)
        sums[x] =
            sum_column<double>(source + x * column_stride, rows, row_stride, [](const In* p) { return widen(*p); });
}

// [a0 + a1, a2 + a3, ..., b0 + b1, ...]
inline Vector add_pairs(Vector a, Vector b) {
    typedef int64_t Index __attribute__((vector_size(sizeof(Vector))));
    Index even, odd;
    for (int i = 0; i < kWidth; ++i) {
        even[i] = 2 * i;
        odd[i] = 2 * i + 1;
    }
    return __builtin_shuffle(a, b, even) + __builtin_shuffle(a, b, odd);
}

// Sums of kPool neighbours: kPool vectors become one.
template <int kPool>
inline Vector fold(const double* sums) {
    if constexpr (kPool == 1)
        return load(sums);
    else
        return add_pairs(fold<kPool / 2>(sums), fold<kPool / 2>(sums + kPool / 2 * kWidth));
}

// The same of columns `step` apart, one sum, in the same order.
template <int kPool>
inline double fold(const double* sums, int64_t step) {
    if constexpr (kPool == 1)
        return *sums;
    else
        return fold<kPool / 2>(sums, step) + fold<kPool / 2>(sums + kPool / 2 * step, step);
}

// out[x] = mean over the window of x, from sums of columns `step` apart. kPool == 0: a pool that is no power of two.
template <int kPool>
void mean_columns_of(const double* sums, int64_t count, int64_t any_pool, int64_t step, double* out) {
    const int64_t pool = kPool ? kPool : any_pool;
    const double area = double(pool * pool);
    int64_t x = 0;
    if constexpr (kPool != 0)
        for (; step == 1 && x + kWidth <= count; x += kWidth) {
            const Vector mean = fold<kPool>(sums + x * pool) / area;
            std::memcpy(out + x, &mean, sizeof mean);
        }
    for (; x < count; ++x) {
        const double* first = sums + x * pool * step;
        double sum = 0;
        if constexpr (kPool != 0)
            sum = fold<kPool>(first, step);
        else
            for (int64_t j = 0; j < pool; ++j) sum += first[j * step];
        out[x] = sum / area;
    }
}

void mean_columns(const double* sums, int64_t count, int64_t pool, int64_t step, double* out) {
    switch (pool) {
        case 1:
            return mean_columns_of<1>(sums, count, pool, step, out);
        case 2:
            return mean_columns_of<2>(sums, count, pool, step, out);
        case 4:
            return mean_columns_of<4>(sums, count, pool, step, out);
        case 8:
            return mean_columns_of<8>(sums, count, pool, step, out);
        default:
            return mean_columns_of<0>(sums, count, pool, step, out);
    }
}

// Channels lie side by side in memory (channels_last): a row of all of them is one run.
bool interleaved(const FeatureMap& map) {
    return map.channel_stride == 1 && map.column_stride == map.channels && map.channels > 1;
}

constexpr int64_t kInterleavedSums = 4096;  // column sums of an interleaved run: 32 KiB

// Column sums that pool_segment needs room for.
int64_t scratch_size(const FeatureMap& map) {
    const int64_t window = map.pool * map.channels;
    return interleaved(map) ? (window > kInterleavedSums ? window : kInterleavedSums) : kTile * map.pool;
}

// Pool positions [x, x + count) of one pooled row into out [C, kTile].
template <class In>
void pool_segment(const FeatureMap& map, int64_t image, int64_t y, int64_t x, int64_t count, double* sums,
                  double* out) {
    const int64_t pool = map.pool;
    const In* source = static_cast<const In*>(map.data) + image * map.image_stride + y * pool * map.row_stride +
                       x * pool * map.column_stride;
    if (interleaved(map)) {
        const int64_t window = pool * map.channels, most = kInterleavedSums / window;
        for (int64_t first = 0; first < count;) {
            const int64_t some = smaller(most > 0 ? most : 1, count - first);
            sum_rows(source + first * window, source + first * window + pool * map.row_stride, pool, map.row_stride, 1,
                     some * window, sums);
            for (int64_t c = 0; c < map.channels; ++c)
                mean_columns(sums + c, some, pool, map.channels, out + c * kTile + first);
            first += some;
        }
        return;
    }
    for (int64_t c = 0; c < map.channels; ++c, source += map.channel_stride) {
        const bool last = c + 1 == map.channels;
        const In* next = source + (last ? pool * map.row_stride - c * map.channel_stride : map.channel_stride);
        sum_rows(source, next, pool, map.row_stride, map.column_stride, count * pool, sums);
        mean_columns(sums, count, pool, 1, out + c * kTile);
    }
}

using PoolSegment = void (*)(const FeatureMap&, int64_t, int64_t, int64_t, int64_t, double*, double*);

PoolSegment pool_segment_for(Type type) {
    switch (type) {
        case Type::float32:
            return pool_segment<float>;
        case Type::float64:
            return pool_segment<double>;
        case Type::float16:
            return pool_segment<Half>;
        default:
            return pool_segment<BFloat16>;
    }
}

void store(const double* values, int64_t count, bool wide, void* out, int64_t offset) {
    if (wide)
        std::memcpy(static_cast<double*>(out) + offset, values, count * sizeof(double));
    else
        for (int64_t x = 0; x < count; ++x) (static_cast<float*>(out) + offset)[x] = float(values[x]);
}

// Divide every position's vector of channels by its length, as torch.nn.functional.normalize does.
void normalize_segment(double* pooled, int64_t channels, int64_t count, double* inverse) {
    for (int64_t x = 0; x < count; ++x) inverse[x] = 0;
    for (int64_t c = 0; c < channels; ++c)
        for (int64_t x = 0; x < count; ++x) inverse[x] += pooled[c * kTile + x] * pooled[c * kTile + x];
    for (int64_t x = 0; x < count; ++x) {
        const double length = std::sqrt(inverse[x]);
        inverse[x] = 1.0 / (length < 1e-12 ? 1e-12 : length);  // NaN stays NaN
    }
    for (int64_t c = 0; c < channels; ++c)
        for (int64_t x = 0; x < count; ++x) pooled[c * kTile + x] *= inverse[x];
}

void difference_and_sum(const double* __restrict s, const double* __restrict t, int64_t count, double* __restrict d,
                        double* __restrict e) {
    for (int64_t i = 0; i < count; ++i) {
        d[i] = s[i] - t[i];
        e[i] = s[i] + t[i];
    }
}

void maps(const MapsJob& job, int64_t chunk) {
    const Grid& grid = job.grid;
    const int64_t N = grid.positions(), K = job.height, half = K / 2, rows_up = round_up(K, 4);
    const int64_t image = chunk / grid.chunks_per_image();
    const int64_t first_row = chunk % grid.chunks_per_image() * grid.rows_per_chunk;
    const int64_t last_row = smaller(first_row + grid.rows_per_chunk, grid.rows);
    const int64_t widest = job.count == 2 ? half : K;

    int64_t sums_size = 0;
    for (int64_t m = 0; m < job.count; ++m) {
        const int64_t size = scratch_size(job.sources[m]);
        sums_size = size > sums_size ? size : sums_size;
    }
    Scratch<double> sums(sums_size), inverse(kTile), pooled(job.count * widest * kTile);
    Scratch<double> tile(rows_up * kTile);  // M of the segment; rows from K on stay zero
    Scratch<double> gram(job.partials ? rows_up * rows_up : 0);

    for (int64_t y = first_row; y < last_row; ++y) {
        for (int64_t x = 0; x < grid.columns; x += kTile) {
            const int64_t count = smaller(kTile, grid.columns - x), at = y * grid.columns + x;
            for (int64_t m = 0; m < job.count; ++m) {
                double* out = pooled + m * widest * kTile;  // a narrower map's missing channels stay zero
                pool_segment_for(job.sources[m].type)(job.sources[m], image, y, x, count, sums, out);
                if (!job.normalize) continue;
                normalize_segment(out, job.sources[m].channels, count, inverse);
                store(inverse, count, job.wide, job.inverse, (image * job.count + m) * N + at);
            }
            if (job.count == 2)
                difference_and_sum(pooled, pooled + half * kTile, half * kTile, tile, tile + half * kTile);
            else
                std::memcpy(tile, pooled, K * kTile * sizeof(double));
            const int64_t length = round_up(count, Simd<double>::kLanes);
            for (int64_t k = 0; k < K; ++k) {
                std::memset(tile + k * kTile + count, 0, (length - count) * sizeof(double));
                store(tile + k * kTile, count, job.wide, job.maps, (image * K + k) * N + at);
            }
            if (job.partials) products<double>(tile, rows_up, tile, rows_up, kTile, length, true, gram);
        }
    }
    if (!job.partials) return;
    for (int64_t i = 0; i < K; ++i)
        for (int64_t j = 0; j < K; ++j)
            job.partials[(chunk * K + i) * K + j] = i <= j ? gram[i * rows_up + j] : gram[j * rows_up + i];
}

// values [C, kTile] -> their windows at full resolution: positions [x, x + count) of pooled row y.
template <class Out>
void spread_segment(const SpreadJob& job, int64_t image, int64_t y, int64_t x, int64_t count, const double* values) {
    const FeatureMap& map = job.target;
    const int64_t pool = map.pool;
    Out* target = static_cast<Out*>(job.gradient) + image * map.image_stride + y * pool * map.row_stride +
                  x * pool * map.column_stride;
    const bool last = x + count == job.grid.columns;  // the columns that no window covers get zero
    const int64_t columns = count * pool + (last ? job.image_columns - job.grid.columns * pool : 0);
    const double area = double(pool * pool);
    for (int64_t c = 0; c < map.channels; ++c, target += map.channel_stride) {
        for (int64_t i = 0; i < columns; i += pool) {
            Out value;
            narrow(i < count * pool ? values[c * kTile + i / pool] / area : 0.0, value);
            for (int64_t j = i; j < smaller(i + pool, columns); ++j) target[j * map.column_stride] = value;
        }
        for (int64_t r = 1; r < pool; ++r) {
            Out* row = target + r * map.row_stride;
            if (map.column_stride == 1)
                std::memcpy(row, target, columns * sizeof(Out));
            else if (!interleaved(map))
                for (int64_t j = 0; j < columns; ++j) row[j * map.column_stride] = target[j * map.column_stride];
        }
    }
    if (!interleaved(map)) return;
    target -= map.channels * map.channel_stride;  // all channels of the first row are there: copy them together
    for (int64_t r = 1; r < pool; ++r)
        std::memcpy(target + r * map.row_stride, target, columns * map.channels * sizeof(Out));
}

// Zero for the rows below the last window.
template <class Out>
void clear_rows(const SpreadJob& job, int64_t image) {
    const FeatureMap& map = job.target;
    Out* target = static_cast<Out*>(job.gradient) + image * map.image_stride;
    for (int64_t y = job.grid.rows * map.pool; y < job.image_rows; ++y)
        for (int64_t c = 0; c < map.channels; ++c)
            for (int64_t x = 0; x < job.image_columns; ++x)
                narrow(0.0, target[c * map.channel_stride + y * map.row_stride + x * map.column_stride]);
}

template <class Out>
void spread_chunk(const SpreadJob& job, int64_t chunk) {
    const Grid& grid = job.grid;
    const int64_t N = grid.positions(), K = job.height, C = job.target.channels, rows_up = round_up(C, 4);
    const int64_t image = chunk / grid.chunks_per_image();
    const int64_t first_row = chunk % grid.chunks_per_image() * grid.rows_per_chunk;
    const int64_t last_row = smaller(first_row + grid.rows_per_chunk, grid.rows);

    Scratch<double> tile(K * kTile), values(job.coefficients ? rows_up * kTile : 0);
    Scratch<double> weights(job.coefficients ? rows_up * K : 0);
    if (job.coefficients) std::memcpy(weights, job.coefficients + image * C * K, C * K * sizeof(double));

    for (int64_t y = first_row; y < last_row; ++y) {
        for (int64_t x = 0; x < grid.columns; x += kTile) {
            const int64_t count = smaller(kTile, grid.columns - x), length = round_up(count, Simd<double>::kLanes);
            for (int64_t k = 0; k < K; ++k) {
                const int64_t at = (image * K + k) * N + y * grid.columns + x;
                for (int64_t i = 0; i < count; ++i)
                    tile[k * kTile + i] = job.wide ? static_cast<const double*>(job.maps)[at + i]
                                                   : double(static_cast<const float*>(job.maps)[at + i]);
            }
            if (job.coefficients) combine<double>(weights, rows_up, K, tile, kTile, length, values);
            spread_segment<Out>(job, image, y, x, count, job.coefficients ? values : tile);
        }
    }
    if (last_row == grid.rows) clear_rows<Out>(job, image);
}

void spread(const SpreadJob& job, int64_t chunk) {
    switch (job.target.type) {
        case Type::float32:
            return spread_chunk<float>(job, chunk);
        case Type::float64:
            return spread_chunk<double>(job, chunk);
        case Type::float16:
            return spread_chunk<Half>(job, chunk);
        default:
            return spread_chunk<BFloat16>(job, chunk);
    }
}

}  // namespace

const AffinityMapsKernels affinity_maps_kernels = {maps, spread};

}  // namespace famkern::FAMKERN_ISA
