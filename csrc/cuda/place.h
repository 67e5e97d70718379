// Where a block of threads of a stage's kernel is, and what it has in shared memory.
//
// It owns some columns and a run of rows, and goes down the rows, four at each step:
//
//     columns      |<- n ->|<------ own: kLanes - 2 n ------>|<- n ->|      n convolutions reach so far on either side
//     a step       rows b .. b + 3 of the source, b - 1 .. b + 2 of the first convolution, ...
//
// Eight numbers of 16 bits, a chunk, move together. The chunks of a pixel lie in an order that changes with the pixel,
// so that eight pixels beside each other lie in different banks.
#pragma once

#include "cuda/device.h"
#include "cuda/stages.h"

namespace famkern::cuda {

constexpr int C = 16, kRows = 4, kRing = kRows + 2;  // rows of a step; of a ring: what a convolution reads at one
constexpr int kLanes = 64, kSegments = kLanes / 16, kThreads = 32 * kSegments;
constexpr int kPitch = kLanes + 2;  // pixels of a row in a ring: one more on either side
constexpr int kHidden = C / 8;
constexpr int kTaps = 9 * C * 2;  // chunks of a convolution's weights

struct Arguments {  // of a kernel
    const void* maps[kMostMaps];
    int64_t map_stride[kMostMaps];  // of images, in elements
    int map_count;
    int direct;  // maps 0 .. direct - 1 are read where they are needed, the others copied ahead
    const float *picture, *mean, *std, *gate, *pixel[4], *lift, *lift_bias;
    int64_t gate_rows, gate_columns, cell, first_row;
    int64_t picture_stride;
    Crossing crossing;
    const float *weight[kMaxConvolutions], *bias[kMaxConvolutions];
    int post;  // outputs of the last convolution, if a picture is made of them
    void *out_x, *out[2];
    int64_t out_x_stride, out_stride[2];
    float* partial[2];  // (B, rows, blocks, parts, C): sums of out[i] over the columns of a block, by cells
    int64_t rows, width, top, bottom, blocks, run;
    int corners, slots, parts;  // along a row: of a block; cells that a warp's, and a block's own columns meet, at most
};

// What a kind of stage does. The words are those of the CPU's kernels and of Triton's.
struct Traits {
    bool lifts, weighs, halves, joins;  // its source; if none of them, it finishes a block
    bool skips;                         // adds the group's skip to the first convolution
    bool emits;                         // ... whose result is an output too
    bool makes_picture;                 // of the last convolution
    int levels;                         // convolutions

    FAMKERN_HOST_DEVICE constexpr bool gated() const { return !lifts && !halves && !joins; }
    FAMKERN_HOST_DEVICE constexpr bool writes_x() const { return !skips && !makes_picture; }
    FAMKERN_HOST_DEVICE constexpr int sums() const { return makes_picture ? 0 : emits && levels > 1 ? 2 : 1; }
    // Maps that the source copies ahead; a group's skip is read where it is needed, and so are maps of other levels.
    FAMKERN_HOST_DEVICE constexpr int staged(int maps) const { return weighs ? maps : gated() ? 2 : 0; }
};

FAMKERN_HOST_DEVICE constexpr Traits traits_of(StageKind kind) {
    const bool group = kind == StageKind::group || kind == StageKind::last_group;
    Traits is{};
    is.lifts = kind == StageKind::head;
    is.weighs = kind == StageKind::tail;
    is.halves = kind == StageKind::down;
    is.joins = kind == StageKind::up;
    is.skips = group || kind == StageKind::u_tail;
    is.emits = group;
    is.makes_picture = kind == StageKind::tail || kind == StageKind::u_tail;
    is.levels = kind == StageKind::group ? 3 : kind == StageKind::last_group ? 1 : 2;
    return is;
}

// ---- shared memory -------------------------------------------------------------------------------------------------

// Where a kernel's arrays lie in shared memory, in bytes.
struct Layout {
    int64_t rings, staged, weights, crossing, gates, sums, parameters, end;
};

constexpr int64_t kRingBytes = kRing * kPitch * C * 2, kStagedBytes = kRows * kLanes * C * 2;
constexpr int64_t kPictureRows = kRows + 2, kPictureBytes = kPictureRows * kPitch * 3 * 4;
constexpr int64_t kParameterFloats = kHidden * (C + 2) + 1 + kMostMaps * C + 6, kLiftFloats = 27 * C + C;

FAMKERN_HOST_DEVICE inline Layout layout_of(StageKind kind, const Arguments& a, int corners, int slots) {
    const Traits is = traits_of(kind);
    const int staged = is.staged(a.map_count) - a.direct;
    Layout at{};
    at.staged = at.rings + is.levels * kRingBytes;
    at.weights = at.staged + (is.lifts ? (kPictureBytes + 15) / 16 * 16 : staged * kStagedBytes);
    at.crossing = at.weights + is.levels * kTaps * 16;
    at.gates = at.crossing + (4 * a.crossing.channels + (is.joins ? C : 0)) * C * 2;
    at.sums = at.gates + kRows * corners * (is.weighs ? a.map_count : 1) * C * 4;
    at.parameters = at.sums + is.sums() * kRows * kSegments * slots * C * 4;
    at.end = at.parameters + (kParameterFloats + (is.lifts ? kLiftFloats : 0)) * 4;
    return at;
}

// The place of a chunk of pixel `p` in an array of pixels of two, four or eight chunks.
FAMKERN_DEVICE int swizzled(int p, int chunk, int chunks = 2) {
    return chunks * p + (chunk ^ (p / (8 / chunks) & (chunks - 1)));
}

// Four by four registers of four neighbouring lanes, transposed: lane q has register q of all of them.
FAMKERN_DEVICE Chunk transposed(Chunk v) {
    const int q = threadIdx.x & 3;
    FAMKERN_UNROLL
    for (int bit = 1; bit <= 2; bit *= 2) {
        const bool upper = (q & bit) != 0;
        FAMKERN_UNROLL
        for (int i = 0; i < 4; ++i) {
            if ((i & bit) != 0) continue;
            const uint32_t other = other_lane(upper ? v.pairs[i] : v.pairs[i | bit], bit);
            (upper ? v.pairs[i] : v.pairs[i | bit]) = other;
        }
    }
    return v;
}

// ---- the place -----------------------------------------------------------------------------------------------------

template <StageKind kKind, class Number, bool kOfWindows>
struct Place {
    using T = Number;
    static constexpr bool kWindows = kOfWindows;
    static constexpr bool kLifts = traits_of(kKind).lifts, kWeighs = traits_of(kKind).weighs;
    static constexpr bool kHalves = traits_of(kKind).halves, kJoins = traits_of(kKind).joins;
    static constexpr bool kGated = traits_of(kKind).gated(), kSkips = traits_of(kKind).skips;
    static constexpr bool kEmits = traits_of(kKind).emits, kMakesPicture = traits_of(kKind).makes_picture;
    static constexpr bool kWritesX = traits_of(kKind).writes_x();
    static constexpr int kLevels = traits_of(kKind).levels, kSums = traits_of(kKind).sums();

    const Arguments& a;
    Chunk *rings, *staged, *weights, *crossing;
    float *picture, *gates, *sums, *lift, *lift_bias, *hidden, *hidden_bias, *output, *output_bias, *gate, *mean, *std;
    int64_t image, block, first_row, end_row, begin, end_inside;
    // With windows: the cell of the block's first column, of this warp's first column and of this thread's pixels, in
    // which they lie `right` of the way from corner to corner.
    int first_cell = 0, warp_cell = 0, pixel_cell = 0;
    float right = 0;

    FAMKERN_DEVICE explicit Place(const Arguments& a) : a(a) {
        char* memory = shared_memory();
        const Layout at = layout_of(kKind, a, kWindows ? a.corners : 0, slots());
        rings = reinterpret_cast<Chunk*>(memory + at.rings);
        staged = reinterpret_cast<Chunk*>(memory + at.staged);
        picture = reinterpret_cast<float*>(memory + at.staged);
        weights = reinterpret_cast<Chunk*>(memory + at.weights);
        crossing = reinterpret_cast<Chunk*>(memory + at.crossing);
        gates = reinterpret_cast<float*>(memory + at.gates);
        sums = reinterpret_cast<float*>(memory + at.sums);
        lift = reinterpret_cast<float*>(memory + at.parameters);
        lift_bias = lift + 27 * C;
        hidden = kLifts ? lift_bias + C : lift;
        hidden_bias = hidden + kHidden * C;
        output = hidden_bias + kHidden;
        output_bias = output + kHidden;
        gate = output_bias + 1;
        mean = gate + kMostMaps * C;
        std = mean + 3;
        image = blockIdx.y;
        block = blockIdx.x % a.blocks;
        first_row = blockIdx.x / a.blocks * a.run;
        end_row = first_row + a.run < a.rows ? first_row + a.run : a.rows;
        begin = block * (kLanes - 2 * kLevels) - kLevels;
        end_inside = a.rows + a.bottom;
        if (kWindows) {
            const int64_t x = begin + threadIdx.x % kLanes;
            first_cell = cell_at(begin);
            warp_cell = cell_at(begin + threadIdx.x / 32 * 16);
            pixel_cell = cell_at(x);
            if (a.gate_columns > 1) right = float(x - pixel_cell * a.cell) / float(a.cell);
        }
    }

    FAMKERN_DEVICE int staged_maps() const { return traits_of(kKind).staged(a.map_count); }
    // The cell of the block's own first column.
    FAMKERN_DEVICE int own_cell() const { return cell_at(begin + kLevels); }
    FAMKERN_DEVICE int slots() const { return kWindows ? a.slots : 1; }
    FAMKERN_DEVICE int parts() const { return kWindows ? a.parts : 1; }
    FAMKERN_DEVICE int gate_count() const { return kWeighs ? a.map_count * C : C; }  // at a corner
    // The cell of a column or row; columns left of the picture count to the first. Both are under 2^31.
    FAMKERN_DEVICE int cell_at(int64_t i) const { return i < 0 ? 0 : int(uint32_t(i) / uint32_t(a.cell)); }

    FAMKERN_DEVICE bool inside(int64_t y) const { return y >= -a.top && y < end_inside; }
    FAMKERN_DEVICE bool in_width(int64_t x) const { return x >= 0 && x < a.width; }
    FAMKERN_DEVICE bool own_row(int64_t y) const { return y >= first_row && y < end_row; }
    FAMKERN_DEVICE bool own_lane(int lane) const {
        return lane >= kLevels && lane < kLanes - kLevels && begin + lane < a.width;
    }

    // Pixel `column` (-1 .. kLanes) of row y in a ring.
    FAMKERN_DEVICE int pixel(int64_t y, int column) const {
        const uint32_t row = uint32_t(y - first_row + kLevels + kRing);  // rows above a run's first step are read
        return int(row % kRing) * kPitch + column + 1;
    }
    FAMKERN_DEVICE Chunk* ring(int level) const { return rings + level * (kRing * kPitch * 2); }
    FAMKERN_DEVICE const T* map(int m) const { return static_cast<const T*>(a.maps[m]) + image * a.map_stride[m]; }
    // Pixel (y, x) of what is read, in pixels.
    FAMKERN_DEVICE int64_t read_at(int64_t y, int64_t x) const { return (y + a.top) * a.width + x; }

    FAMKERN_DEVICE float normalised(int64_t y, int64_t x, int c) const {
        return (load(a.picture + image * a.picture_stride + read_at(y, x) * 3 + c) - mean[c]) / std[c];
    }

    // Puts a chunk of a pixel of row y into the ring of this level.
    FAMKERN_DEVICE void keep(int level, int64_t y, int lane, int half, Chunk chunk) const {
        ring(level)[swizzled(pixel(y, lane), half)] = chunk;
    }

    // Writes it into a map of the results, if it is the block's own.
    FAMKERN_DEVICE void write(void* out, int64_t stride, int64_t y, int lane, int half, Chunk chunk) const {
        if (own_row(y) && own_lane(lane))
            store(reinterpret_cast<Chunk*>(static_cast<T*>(out) + image * stride + (y * a.width + begin + lane) * C +
                                           8 * half),
                  chunk);
    }
};

}  // namespace famkern::cuda
