// One call of a stage operator as plain data, so that kernels know no torch; contracts are in famkern/ops.
//
// A band is cut into tasks: blocks of columns, anchored at the image's left, times runs of strips (rows of tiles). A
// task writes its own rectangle of every output and recomputes what it needs around it, so tasks run in any order on
// any thread. The cut into columns depends on the picture's width and cells alone, because the sums of a row are added
// block by block; a block has whole cells, if there are several.
#pragma once

#include <cstdint>

namespace famkern {

enum class StageKind { head, block, group, last_group, tail, down, up, u_tail };
enum class Storage { float32, float16, bfloat16 };

constexpr int64_t kTileSide = 4;  // of F(4x4, 3x3)
constexpr int kMaxConvolutions = 3;

struct Map {  // (B, rows, W, C), contiguous but for the stride of the batch, in elements
    void* data;
    int64_t image_stride;
};

struct Convolution {
    const float* weight;  // (outputs, inputs, 3, 3)
    const float* bias;
    int inputs, outputs;
};

// What leads over from a map of another level, with the band's rows of it; its first row is that of the inputs, times
// or divided by two.
//   down   fine map, weight (C, channels, 2, 2), bias (C,)
//   up     coarse map, weight (4, C, channels) and bias (4, C) of the four pixels that one becomes, skip (C, C)
struct Crossing {
    Map map;
    int64_t rows, width;
    int channels;
    const float *weight, *bias, *skip;
};

struct StageCall {
    StageKind kind;
    Storage storage;  // of the maps; pictures are float32
    int device;       // -1: the CPU; otherwise CUDA's number of the GPU that everything lies on
    bool stream;      // outputs are too large for the caches, and on cache lines
    int channels;
    int64_t batch, rows, width, top, bottom;  // rows of the outputs; inputs have top and bottom more
    int64_t cell, first_row;                  // columns of a cell; row of the picture with which the inputs begin

    Map image;        // head, tail, u_tail
    const Map* maps;  // x, z, skip; the tail's groups; skip alone
    int64_t map_count;
    // (B, gate_rows, gate_columns, channels), tail: map_count channels: at the corners of cells, or 1 along a side: the
    // same everywhere.
    const float* gate;
    int64_t gate_rows, gate_columns;
    const float* mean;  // (3,) head, tail, u_tail
    const float* std;
    const float* pixel[4];  // pixel attention: (C/8, C), (C/8,), (1, C/8), (1,)
    Convolution lift;       // head: 3 -> C
    Crossing crossing;      // down, up
    Convolution convolution[kMaxConvolutions];
    int convolutions;
    Map out_x;        // head, block, down, up
    Map out[2];       // of the convolutions: z; r and z; the picture
    double* sums[2];  // (B, rows, cells, C) of out, or null

    int64_t cells() const { return (width + cell - 1) / cell; }
    int64_t gates() const { return kind == StageKind::tail ? map_count * channels : channels; }  // at a corner
};

struct Task {
    int64_t image;  // of the batch
    int64_t first_strip, end_strip;
    int64_t first_tile, end_tile;  // columns of tiles
    int64_t block;                 // of columns
};

struct StageKernels {
    int64_t (*packed_bytes)(const StageCall&);
    void (*pack)(const StageCall&, void* packed);                      // transforms the weights
    int64_t (*scratch_bytes)(const StageCall&, int64_t tiles_across);  // of a task of this width
    // partial[i]: (B, rows, parts, C), zeroed: sums of out[i] over parts of its columns, the blocks or else the cells
    void (*run)(const StageCall&, const Task&, const void* packed, void* scratch, double* const* partial,
                int64_t parts);
};

}  // namespace famkern
