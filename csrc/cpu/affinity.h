// Jobs of the affinity kernels: plain data, so that kernels know no torch. A job is a line of chunks, cut by shape
// alone and never by the number of threads; chunks may run in any order and on any thread.
#pragma once

#include <cstdint>

namespace famkern {

enum class Type { float32, float64, float16, bfloat16 };

struct FeatureMap {  // B x C x H x W, any strides (in elements)
    const void* data;
    Type type;
    int64_t channels;
    int64_t pool;
    int64_t image_stride, channel_stride, row_stride, column_stride;
};

// Pooled grid of `rows` x `columns` = N positions; one chunk is `rows_per_chunk` rows of one image.
struct Grid {
    int64_t images, rows, columns, rows_per_chunk;

    int64_t positions() const { return rows * columns; }
    int64_t chunks_per_image() const { return (rows + rows_per_chunk - 1) / rows_per_chunk; }
    int64_t chunks() const { return images * chunks_per_image(); }
};

// affinity_maps.cpp: pooling, normalisation and Gram matrices, and the way back.
struct MapsJob {
    Grid grid;
    FeatureMap sources[2];  // the student, then the teacher
    int64_t count;          // 1: the student alone, K = its channels; 2: both, K = 2 x channels of the wider one
    int64_t height;         // K
    bool normalize;
    bool wide;         // float64 instead of float32 in `maps` and `inverse`
    void* maps;        // [B, K, N]
    void* inverse;     // [B, count, N] with normalize, else unused
    double* partials;  // [chunks, K, K], zeroed, or null where no Gram matrix is wanted
};

struct SpreadJob {
    Grid grid;
    const void* maps;  // [B, K, N]
    bool wide;
    int64_t height;              // K
    const double* coefficients;  // [B, C, K], or null: the identity
    void* gradient;              // B x C x H x W with the strides of `target`
    FeatureMap target;           // data unused
    int64_t image_rows, image_columns;
};

struct AffinityMapsKernels {
    void (*maps)(const MapsJob&, int64_t chunk);
    void (*spread)(const SpreadJob&, int64_t chunk);
};

// affinity_l1.cpp: the tiled pass over the N x N affinities.
struct TiledJob {
    int64_t images, height, positions;  // B, K, N
    const void* maps;                   // [B, K, N]
    bool wide;
    double* partials;     // sum: [B, chunks_per_image]
    const double* scale;  // gradient: [B], what each image's sum is multiplied with
    void* gradient;       // gradient: [B, K, N], type of maps
};

constexpr int64_t kTile = 128;  // positions in a tile's side

struct AffinityTiledKernels {
    void (*sum)(const TiledJob&, int64_t chunk);       // a chunk is a pair of rows of tiles
    void (*gradient)(const TiledJob&, int64_t chunk);  // a chunk is a row of tiles
};

}  // namespace famkern
