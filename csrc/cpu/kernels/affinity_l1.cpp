// The sum of |A(S') - A(T')| over all N x N pairs of positions, and its gradient, without storing a matrix of that
// size.
//
// With M = [D; E] = [S' - T'; S' + T'] and X M = [E; D] an entry of the difference is half a product of two columns:
//
//     a_ij = (d_i . e_j + e_i . d_j) / 2 = (X M)_i . M_j / 2
//     sum = sum_ij |a_ij|                              gradient = d sum / d M = X M sign(a)        [K, N] = [K, N][N,
//     N]
//
// Small differences stay accurate, for D is formed first. Tiles of kTile x kTile entries are computed, used and
// forgotten in the cache; the sum visits a tile and its mirror image once, the gradient recomputes both, so that each
// row of tiles has one owner and nothing is added to by two threads.
//
//              j ->
//          +----+----+----+----+
//     i    | 1  | 2  | 2  | 2  |     sum: weight of a tile; a chunk is a row of tiles with the one as far from the end
//     |    +----+----+----+----+     (first and last, second and last but one), which makes chunks equally long
//     v         | 1  | 2  | 2  |
#include "cpu/affinity.h"
#include "cpu/products.h"

namespace famkern::FAMKERN_ISA {

extern const AffinityTiledKernels affinity_tiled_kernels;

namespace {

// Copies tile `index` of an image's maps [K, N] to out [K, kTile]; positions beyond N are zero.
template <class T>
void copy_tile(const T* maps, int64_t K, int64_t N, int64_t index, T* out) {
    const int64_t first = index * kTile, count = smaller(kTile, N - first);
    for (int64_t k = 0; k < K; ++k) {
        std::memcpy(out + k * kTile, maps + k * N + first, count * sizeof(T));
        std::memset(out + k * kTile + count, 0, (kTile - count) * sizeof(T));
    }
}

// The same tile as weights of `combine`: out [kTile, K] = (X M)^T / 2.
template <class T>
void copy_swapped(const T* tile, int64_t K, T* out) {
    const int64_t C = K / 2;
    for (int64_t x = 0; x < kTile; ++x)
        for (int64_t c = 0; c < C; ++c) {
            out[x * K + c] = tile[(C + c) * kTile + x] / 2;
            out[x * K + C + c] = tile[c * kTile + x] / 2;
        }
}

template <class T>
double absolute_sum(const T* values, int64_t count) {
    constexpr int kLanes = Simd<T>::kLanes;
    T lanes[kLanes] = {};
    for (int64_t x = 0; x < count; x += kLanes)
        for (int l = 0; l < kLanes; ++l) lanes[l] += values[x + l] < 0 ? -values[x + l] : values[x + l];
    double sum = 0;
    for (int l = 0; l < kLanes; ++l) sum += double(lanes[l]);
    return sum;
}

template <class T>
void sum_chunk(const TiledJob& job, int64_t chunk) {
    const int64_t K = job.height, N = job.positions, tiles = (N + kTile - 1) / kTile, pairs = (tiles + 1) / 2;
    const int64_t image = chunk / pairs, upper = chunk % pairs, lower = tiles - 1 - upper;
    const T* maps = static_cast<const T*>(job.maps) + image * K * N;
    Scratch<T> tile(K * kTile), weights(kTile * K), entries(kTile * kTile);
    double total = 0;
    for (int64_t i = upper;; i = lower) {
        copy_tile<T>(maps, K, N, i, tile);
        copy_swapped<T>(tile, K, weights);
        for (int64_t j = i; j < tiles; ++j) {
            copy_tile<T>(maps, K, N, j, tile);
            combine<T>(weights, kTile, K, tile, kTile, kTile, entries);
            double sum = 0;
            for (int64_t x = 0; x < kTile; ++x) sum += absolute_sum<T>(entries + x * kTile, kTile);
            total += i == j ? sum : 2 * sum;
        }
        if (i == lower) break;
    }
    job.partials[chunk] = total;
}

template <class T>
void gradient_chunk(const TiledJob& job, int64_t chunk) {
    const int64_t K = job.height, C = K / 2, N = job.positions, tiles = (N + kTile - 1) / kTile;
    const int64_t image = chunk / tiles, i = chunk % tiles;
    const T* maps = static_cast<const T*>(job.maps) + image * K * N;
    Scratch<T> tile(K * kTile), weights(kTile * K), entries(kTile * kTile);
    Scratch<double> sums(kTile * K);  // [kTile, K]: sign(a) M^T
    copy_tile<T>(maps, K, N, i, tile);
    copy_swapped<T>(tile, K, weights);
    for (int64_t j = 0; j < tiles; ++j) {
        copy_tile<T>(maps, K, N, j, tile);
        combine<T>(weights, kTile, K, tile, kTile, kTile, entries);
        for (int64_t x = 0; x < kTile * kTile; ++x) entries[x] = T(entries[x] > 0) - T(entries[x] < 0);
        products<T>(entries, kTile, tile, K, kTile, kTile, false, sums);
    }
    T* gradient = static_cast<T*>(job.gradient) + image * K * N + i * kTile;
    for (int64_t k = 0; k < K; ++k)
        for (int64_t x = 0; x < smaller(kTile, N - i * kTile); ++x)
            gradient[k * N + x] = T(job.scale[image] * sums[x * K + (k + C) % K]);  // X swaps the halves
}

void sum(const TiledJob& job, int64_t chunk) {
    job.wide ? sum_chunk<double>(job, chunk) : sum_chunk<float>(job, chunk);
}

void gradient(const TiledJob& job, int64_t chunk) {
    job.wide ? gradient_chunk<double>(job, chunk) : gradient_chunk<float>(job, chunk);
}

}  // namespace

const AffinityTiledKernels affinity_tiled_kernels = {sum, gradient};

}  // namespace famkern::FAMKERN_ISA
