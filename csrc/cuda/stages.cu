// The stages of the network on an NVIDIA GPU, one kernel a stage and a small one that adds up the sums of rows.
//
// A block of threads owns some columns and a run of rows, and goes down the rows, four at each step. Rings of rows in
// shared memory hold what lies between the convolutions:
//
//     step at row b            kLanes columns, of which `n` on either side are halo (n convolutions)
//
//     maps, rows b .. b+3      asynchronously copied during the step before
//     source                   x' of rows b .. b+3                        -> ring 0, x' out
//     level 1                  rows b-1 .. b+2 of the first convolution    -> ring 1
//     level 2                  rows b-2 .. b+1 of the second one           -> out, sums
//
// A convolution is a product on tensor cores for each of nine taps: 16 pixels of a row (a) by 16 x 16 weights (b). A
// warp computes four rows of 16 columns, so that a row of a ring, once in registers, serves three rows of results.
// Eight numbers of 16 bits, a chunk, move together. A pixel's two chunks lie in an order that changes every four
// pixels, so that eight pixels beside each other lie in different banks.
//
//   stage        source                           levels
//   head         x = pre(normalised picture)      r = relu(conv1(x)) + x,  z = conv2(r)
//   block        x' = z g pa(z g) + x             r = relu(conv1(x')) + x',  z' = conv2(r)
//   group        the same                         r = conv(x') + skip -> out,  then as in a block
//   last_group   the same                         r = conv(x') + skip -> out
//   tail         o = sum of w r, o pa(o)          post1,  clamp(post2 + normalised picture)
//
// Where means are over windows (kWindows), a channel's gate is linear between the corners of cells, and sums are taken
// over the columns of each cell. Gates of the step's rows at the corners around the block's columns lie in shared
// memory; a warp adds its columns cell by cell, a block its warps, and a small kernel the blocks that a cell meets.
//
//     columns      |<- cell 0 ->|<- cell 1 ->|<- ...        corners between them
//     a block          |<- 16 ->|<- 16 ->|<- ...            a warp's columns meet two cells, or one
//
// The same bits whatever the band, the run and the batch: a pixel's arithmetic depends on its row through the gate
// alone, columns of blocks are anchored at the picture's left, sums are added in one order, without atomics.
#include "cuda/device.h"
#include "cuda/stages.h"

namespace famkern::cuda {
namespace {

constexpr int C = 16, kRows = 4, kRing = kRows + 2;  // rows of a step; of a ring: what a convolution reads at one
constexpr int kLanes = 64, kSegments = kLanes / 16, kThreads = 32 * kSegments;
constexpr int kPitch = kLanes + 2;  // pixels of a row in a ring: one more on either side
constexpr int kHidden = C / 8;

// Blocks that a multiprocessor has registers for. It may have less shared memory: see fitting().
FAMKERN_HOST_DEVICE constexpr int resident(StageKind kind) { return kind == StageKind::group ? 2 : 3; }

struct Arguments {  // of a kernel
    const void* maps[kMostMaps];
    int64_t map_stride[kMostMaps];  // of images, in elements
    int map_count;
    int direct;  // maps 0 .. direct - 1 are read where they are needed, the others copied ahead
    const float *picture, *mean, *std, *gate, *pixel[4], *lift, *lift_bias;
    int64_t gate_rows, gate_columns, cell, first_row;
    int64_t picture_stride;
    const float *weight[kMaxConvolutions], *bias[kMaxConvolutions];
    void *out_x, *out[2];
    int64_t out_x_stride, out_stride[2];
    float* partial[2];  // (B, rows, blocks, parts, C): sums of out[i] over the columns of a block, by cells
    int64_t rows, width, top, bottom, blocks, run;
    int corners, slots, parts;  // along a row: of a block; cells that a warp's, and a block's own columns meet, at most
};

// Cells that so many columns beside each other meet, at most.
constexpr int64_t cells_of(int64_t columns, int64_t cell) { return (columns + cell - 2) / cell + 1; }

// ---- shared memory
// ---------------------------------------------------------------------------------------------------

// Where a kernel's arrays lie in shared memory, in bytes.
struct Layout {
    int64_t rings, staged, weights, gates, sums, parameters, end;
};

constexpr int64_t kRingBytes = kRing * kPitch * C * 2, kStagedBytes = kRows * kLanes * C * 2;
constexpr int64_t kPictureRows = kRows + 2, kPictureBytes = kPictureRows * kPitch * 3 * 4;
constexpr int64_t kParameterFloats = kHidden * (C + 2) + 1 + kMostMaps * C + 6, kLiftFloats = 27 * C + C;

// Maps of the source; a group's skip is read where it is needed.
FAMKERN_HOST_DEVICE constexpr int staged_of(StageKind kind, int maps) { return kind == StageKind::tail ? maps : 2; }

FAMKERN_HOST_DEVICE constexpr Layout layout_of(StageKind kind, int convolutions, int maps, int direct, int corners,
                                               int slots) {
    const int staged = staged_of(kind, maps) - direct;
    const int sums = kind == StageKind::group ? 2 : kind == StageKind::tail ? 0 : 1;
    Layout at{};
    at.staged = at.rings + convolutions * kRingBytes;
    at.weights = at.staged + (kind == StageKind::head ? (kPictureBytes + 15) / 16 * 16 : staged * kStagedBytes);
    at.gates = at.weights + convolutions * 9 * C * C * 2;
    at.sums = at.gates + kRows * corners * (kind == StageKind::tail ? maps : 1) * C * 4;
    at.parameters = at.sums + sums * kRows * kSegments * slots * C * 4;
    at.end = at.parameters + (kParameterFloats + (kind == StageKind::head ? kLiftFloats : 0)) * 4;
    return at;
}

// The place of chunk 0 or 1 of pixel `p` in an array of pixels.
FAMKERN_DEVICE int swizzled(int p, int chunk) { return 2 * p + (chunk ^ (p >> 2 & 1)); }

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

// ---- a stage
// ---------------------------------------------------------------------------------------------------------

template <StageKind kKind, class T, bool kWindows>
struct Stage {
    static constexpr bool kHead = kKind == StageKind::head, kTail = kKind == StageKind::tail;
    static constexpr bool kGroup = kKind == StageKind::group || kKind == StageKind::last_group;
    static constexpr int kLevels = kKind == StageKind::group ? 3 : kKind == StageKind::last_group ? 1 : 2;

    const Arguments& a;
    Chunk *rings, *staged, *weights;
    float *picture, *gates, *sums, *lift, *lift_bias, *hidden, *hidden_bias, *output, *output_bias, *gate, *mean, *std;
    int64_t image, block, first_row, end_row, begin, end_inside;
    // With windows: the cell of the block's first column, of this warp's first column and of this thread's pixels, in
    // which they lie `right` of the way from corner to corner.
    int first_cell = 0, warp_cell = 0, pixel_cell = 0;
    float right = 0;

    FAMKERN_DEVICE explicit Stage(const Arguments& a) : a(a) {
        char* memory = shared_memory();
        const Layout at = layout_of(kKind, kLevels, a.map_count, a.direct, kWindows ? a.corners : 0, slots());
        rings = reinterpret_cast<Chunk*>(memory + at.rings);
        staged = reinterpret_cast<Chunk*>(memory + at.staged);
        picture = reinterpret_cast<float*>(memory + at.staged);
        weights = reinterpret_cast<Chunk*>(memory + at.weights);
        gates = reinterpret_cast<float*>(memory + at.gates);
        sums = reinterpret_cast<float*>(memory + at.sums);
        lift = reinterpret_cast<float*>(memory + at.parameters);
        lift_bias = lift + 27 * C;
        hidden = kHead ? lift_bias + C : lift;
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

    // The cell of the block's own first column.
    FAMKERN_DEVICE int own_cell() const { return cell_at(begin + kLevels); }
    FAMKERN_DEVICE int slots() const { return kWindows ? a.slots : 1; }
    FAMKERN_DEVICE int parts() const { return kWindows ? a.parts : 1; }
    FAMKERN_DEVICE int gate_count() const { return kTail ? a.map_count * C : C; }  // at a corner
    // The cell of a column or row; columns left of the picture count to the first. Both are under 2^31.
    FAMKERN_DEVICE int cell_at(int64_t i) const { return i < 0 ? 0 : int(uint32_t(i) / uint32_t(a.cell)); }

    FAMKERN_DEVICE bool inside(int64_t y) const { return y >= -a.top && y < end_inside; }
    FAMKERN_DEVICE bool in_width(int64_t x) const { return x >= 0 && x < a.width; }
    FAMKERN_DEVICE bool own_row(int64_t y) const { return y >= first_row && y < end_row; }
    FAMKERN_DEVICE bool own_lane(int lane) const {
        return lane >= kLevels && lane < kLanes - kLevels && begin + lane < a.width;
    }

    // Pixel `column` (-1 .. kLanes) of row y in a ring.
    FAMKERN_DEVICE int place(int64_t y, int column) const {
        const uint32_t row = uint32_t(y - first_row + kLevels + kRing);  // rows above a run's first step are read
        return int(row % kRing) * kPitch + column + 1;
    }
    FAMKERN_DEVICE Chunk* ring(int level) const { return rings + level * (kRing * kPitch * 2); }

    FAMKERN_DEVICE void run() {
        prepare();
        barrier();
        fetch(first_row - kLevels);
        for (int64_t b = first_row - kLevels; b - kLevels < end_row; b += kRows) {
            wait_for_copies();
            barrier();
            add_sums(b - kRows);
            source(b);
            barrier();
            if (b + kRows - kLevels < end_row) fetch(b + kRows);
            convolve<1>(b - 1);
            if constexpr (kLevels > 1) {
                barrier();
                convolve<2>(b - 2);
            }
            if constexpr (kLevels > 2) {
                barrier();
                convolve<3>(b - 3);
            }
        }
        barrier();
        const int64_t steps = (end_row + 2 * kLevels - first_row + kRows - 1) / kRows;
        add_sums(first_row - kLevels + (steps - 1) * kRows);
    }

    // Parameters and weights to shared memory, the columns beside the lanes to zero.
    FAMKERN_DEVICE void prepare() {
        const int t = int(threadIdx.x);
        const auto copy = [&](float* to, const float* from, int count) {
            for (int i = t; i < count; i += kThreads) to[i] = from[i];
        };
        if (kHead || kTail) {
            copy(mean, a.mean, 3);
            copy(std, a.std, 3);
        }
        if (kHead) {  // [row, column, input][output]
            for (int i = t; i < 27 * C; i += kThreads) lift[i] = a.lift[(i % C * 3 + i / C % 3) * 9 + i / C / 3];
            copy(lift_bias, a.lift_bias, C);
        } else {
            if (!kWindows) copy(gate, a.gate + image * gate_count(), gate_count());
            copy(hidden, a.pixel[0], kHidden * C);
            copy(hidden_bias, a.pixel[1], kHidden);
            copy(output, a.pixel[2], kHidden);
            copy(output_bias, a.pixel[3], 1);
        }
        for (int level = 0; level < kLevels; ++level) {  // [tap][output][input]
            const int outputs = kTail && level == 1 ? 3 : C;
            for (int i = t; i < 9 * C * 2; i += kThreads) {
                const int tap = i / (2 * C), o = i / 2 % C, first = i % 2 * 8;
                Chunk chunk;
                for (int pair = 0; pair < 4; ++pair) {
                    float w[2];
                    for (int k = 0; k < 2; ++k)
                        w[k] = o < outputs ? a.weight[level][(o * C + first + 2 * pair + k) * 9 + tap] : 0.0f;
                    chunk.pairs[pair] = pack<T>(w[0], w[1]);
                }
                weights[level * (9 * C * 2) + tap * (2 * C) + swizzled(o, i % 2)] = chunk;
            }
        }
        for (int i = t; i < kLevels * kRing * 4; i += kThreads)
            rings[i / 4 * kPitch * 2 + (i & 2 ? 2 * (kPitch - 1) : 0) + (i & 1)] = Chunk{};
    }

    // ---- sources
    // -----------------------------------------------------------------------------------------------------

    // Has what the source needs for rows b .. b + 3 on its way to shared memory.
    FAMKERN_DEVICE void fetch(int64_t b) {
        if constexpr (kHead) {
            for (int i = int(threadIdx.x); i < int(kPictureRows) * kPitch; i += kThreads) {
                const int64_t y = b - 1 + i / kPitch, x = begin - 1 + i % kPitch;
                const bool there = inside(y) && in_width(x);
                for (int c = 0; c < 3; ++c) picture[3 * i + c] = there ? normalised(y, x, c) : 0.0f;
            }
        } else {
            for (int m = a.direct; m < staged_of(kKind, a.map_count); ++m) {
                const T* map = static_cast<const T*>(a.maps[m]) + image * a.map_stride[m];
                for (int i = int(threadIdx.x); i < kRows * kLanes * 2; i += kThreads) {
                    const int p = i / 2;
                    const int64_t y = b + p / kLanes, x = begin + p % kLanes;
                    const bool there = inside(y) && in_width(x);
                    const T* from = map + (there ? ((y + a.top) * a.width + x) * C + i % 2 * 8 : 0);
                    copy16(staged + (m - a.direct) * (kRows * kLanes * 2) + swizzled(p, i % 2), from, there);
                }
            }
            if (kWindows) fetch_gates(b);
        }
    }

    // Gates of rows b .. b + 3 at the corners around the block's columns, linear between those above and below.
    FAMKERN_DEVICE void fetch_gates(int64_t b) {
        const int count = gate_count(), line = a.corners * count;
        for (int i = int(threadIdx.x); i < kRows * line; i += kThreads) {
            const int64_t y = b + i / line, column = (a.gate_columns > 1 ? first_cell : 0) + i % line / count;
            if (!inside(y) || column >= a.gate_columns) continue;
            const int64_t row = y + a.top + a.first_row;
            const int above = a.gate_rows > 1 ? cell_at(row) : 0;
            const float* corner =
                a.gate + ((image * a.gate_rows + above) * a.gate_columns + column) * count + i % count;
            float v = *corner;
            if (a.gate_rows > 1) {
                const float down = float(row - above * a.cell) / float(a.cell);
                v += (corner[a.gate_columns * count] - v) * down;
            }
            gates[i] = v;
        }
    }

    FAMKERN_DEVICE float normalised(int64_t y, int64_t x, int c) const {
        return (load(a.picture + image * a.picture_stride + ((y + a.top) * a.width + x) * 3 + c) - mean[c]) / std[c];
    }

    FAMKERN_DEVICE void source(int64_t b) {
        for (int p = int(threadIdx.x); p < kRows * kLanes; p += kThreads) {
            const int lane = p % kLanes;
            const int64_t y = b + p / kLanes, x = begin + lane;
            float v[C] = {};
            if (inside(y) && in_width(x)) {
                if (kHead)
                    lift_pixel(p, v);
                else
                    attend(p, ((y + a.top) * a.width + x) * C, v);
            }
            FAMKERN_UNROLL
            for (int half = 0; half < 2; ++half) {
                Chunk chunk;
                FAMKERN_UNROLL
                for (int i = 0; i < 4; ++i) chunk.pairs[i] = pack<T>(v[8 * half + 2 * i], v[8 * half + 2 * i + 1]);
                ring(0)[swizzled(place(y, lane), half)] = chunk;
                if (!kGroup && !kTail && own_row(y) && own_lane(lane))
                    store(reinterpret_cast<Chunk*>(static_cast<T*>(a.out_x) + image * a.out_x_stride +
                                                   (y * a.width + x) * C + 8 * half),
                          chunk);
            }
        }
    }

    FAMKERN_DEVICE void lift_pixel(int p, float (&v)[C]) const {
        FAMKERN_UNROLL
        for (int o = 0; o < C; ++o) v[o] = lift_bias[o];
        for (int row = 0; row < 3; ++row)
            for (int i = 0; i < 9; ++i) {
                const float pixel = picture[((p / kLanes + row) * kPitch + p % kLanes) * 3 + i];
                FAMKERN_UNROLL
                for (int o = 0; o < C; ++o) v[o] += pixel * lift[(row * 9 + i) * C + o];
            }
    }

    // v = z g pa(z g) + x; the tail: o pa(o), o = sum of w r.
    FAMKERN_DEVICE void attend(int p, int64_t at, float (&v)[C]) const {
        if (kTail) {
            for (int m = 0; m < a.map_count; ++m) add_gated(m, p, at, v, m * C);
        } else {
            add_gated(1, p, at, v, 0);
        }
        float logit = *output_bias;
        FAMKERN_UNROLL
        for (int u = 0; u < kHidden; ++u) {
            float sum = hidden_bias[u];
            FAMKERN_UNROLL
            for (int c = 0; c < C; ++c) sum += v[c] * hidden[u * C + c];
            logit += (sum > 0 ? sum : 0.0f) * output[u];
        }
        const float attention = 1.0f / (1.0f + exponential(-logit));
        FAMKERN_UNROLL
        for (int c = 0; c < C; ++c) v[c] *= attention;
        if (!kTail) add_pixel(0, p, at, v, nullptr);
    }

    // v += pixel p of map m, times its gates, which begin with number `first` of a corner.
    FAMKERN_DEVICE void add_gated(int m, int p, int64_t at, float (&v)[C], int first) const {
        if (!kWindows) return add_pixel(m, p, at, v, gate + first);
        const int count = gate_count(), across = a.gate_columns > 1 ? pixel_cell - first_cell : 0;
        const Four* corner = reinterpret_cast<Four*>(gates + (p / kLanes * a.corners + across) * count + first);
        const Four* other = corner + (a.gate_columns > 1 ? count / 4 : 0);
        float weights[C];
        FAMKERN_UNROLL
        for (int i = 0; i < C; i += 4) {
            const Four from = corner[i / 4], to = other[i / 4];
            FAMKERN_UNROLL
            for (int k = 0; k < 4; ++k) weights[i + k] = from.v[k] + (to.v[k] - from.v[k]) * right;
        }
        add_pixel(m, p, at, v, weights);
    }

    // v += pixel p of map m, `at` in its image, times its gates
    FAMKERN_DEVICE void add_pixel(int m, int p, int64_t at, float (&v)[C], const float* gates) const {
        const T* map = static_cast<const T*>(a.maps[m]) + image * a.map_stride[m] + at;
        FAMKERN_UNROLL
        for (int half = 0; half < 2; ++half) {
            const Chunk chunk = m < a.direct ? load(reinterpret_cast<const Chunk*>(map) + half)
                                             : staged[(m - a.direct) * (kRows * kLanes * 2) + swizzled(p, half)];
            FAMKERN_UNROLL
            for (int i = 0; i < 4; ++i) {
                const int c = 8 * half + 2 * i;
                v[c] += low_of<T>(chunk.pairs[i]) * (gates != nullptr ? gates[c] : 1.0f);
                v[c + 1] += high_of<T>(chunk.pairs[i]) * (gates != nullptr ? gates[c + 1] : 1.0f);
            }
        }
    }

    // ---- convolutions
    // --------------------------------------------------------------------------------------------------

    // Level 1, 2, ...: rows y .. y + 3, of which this warp has 16 columns.
    template <int kLevel>
    FAMKERN_DEVICE void convolve(int64_t y) {
        const int lane = int(threadIdx.x) % 32, segment = int(threadIdx.x) / 32;
        constexpr bool kPicture = kTail && kLevel == kLevels;  // three channels: half of the outputs are not needed
        float sum[kRows][2][4] = {};
        uint32_t w[9][4];
        FAMKERN_UNROLL
        for (int tap = 0; tap < 9; ++tap)
            load_matrices(w[tap], weights + (kLevel - 1) * (9 * C * 2) + tap * (2 * C) +
                                      swizzled((lane & 7) + (lane >> 4 << 3), lane >> 3 & 1));
        const Chunk* from = ring(kLevel - 1);
        FAMKERN_UNROLL
        for (int row = 0; row < kRows + 2; ++row) FAMKERN_UNROLL
        for (int dx = 0; dx < 3; ++dx) {
            uint32_t pixels[4];
            load_matrices(pixels, from + swizzled(place(y - 1 + row, 16 * segment + dx - 1 + (lane & 15)), lane >> 4));
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
                put_picture(y + r, 16 * segment, sum[r][0]);
            else
                put<kLevel>(r, y + r, segment, sum[r]);
        }
    }

    // One row of 16 columns of a level: to its ring, or out, and into the sums. This thread has the channels 2 q, 2 q +
    // 1, 8 + 2 q and 9 + 2 q of two pixels, g and g + 8.
    template <int kLevel>
    FAMKERN_DEVICE void put(int r, int64_t y, int segment, const float (&sum)[2][4]) {
        constexpr bool kSkip = kGroup && kLevel == 1, kLast = kLevel == kLevels, kResidual = !kSkip && !kLast && !kTail;
        constexpr bool kOut = kSkip || (kLast && !kTail);
        constexpr int kIndex = kGroup && !kSkip ? 1 : 0;
        const int g = int(threadIdx.x) % 32 / 4, q = int(threadIdx.x) % 4;
        float values[4][2];
        Chunk mine;  // both chunks of pixel g, then of g + 8: pairs that belong to this thread
        FAMKERN_UNROLL
        for (int part = 0; part < 4; ++part) {
            const int lane = 16 * segment + g + part / 2 * 8, half = part % 2, c = 8 * half + 2 * q;
            const int64_t x = begin + lane;
            const bool there = inside(y) && in_width(x);
            float low = sum[half][part / 2 * 2] + a.bias[kLevel - 1][c];
            float high = sum[half][part / 2 * 2 + 1] + a.bias[kLevel - 1][c + 1];
            if (kResidual) {
                const uint32_t pair = ring(kLevel - 1)[swizzled(place(y, lane), half)].pairs[q];
                low = (low > 0 ? low : 0.0f) + low_of<T>(pair);
                high = (high > 0 ? high : 0.0f) + high_of<T>(pair);
            }
            if (kSkip && there) {
                const T* skip = static_cast<const T*>(a.maps[2]) + image * a.map_stride[2];
                const uint32_t pair =
                    load(reinterpret_cast<const uint32_t*>(skip + ((y + a.top) * a.width + x) * C + c));
                low += low_of<T>(pair);
                high += high_of<T>(pair);
            }
            mine.pairs[part] = there ? pack<T>(low, high) : 0;
            values[part][0] = low;
            values[part][1] = high;
        }
        const Chunk chunk = transposed(mine);  // thread q: chunk q % 2 of pixel g + q / 2 * 8
        const int lane = 16 * segment + g + q / 2 * 8;
        if (!kLast) ring(kLevel)[swizzled(place(y, lane), q % 2)] = chunk;
        if (!kOut) return;
        if (own_row(y) && own_lane(lane))
            store(reinterpret_cast<Chunk*>(static_cast<T*>(a.out[kIndex]) + image * a.out_stride[kIndex] +
                                           (y * a.width + begin + lane) * C + q % 2 * 8),
                  chunk);
        for (int slot = 0; slot < slots(); ++slot) {
            // The cell's first lane; one that begins after the warp's columns adds nothing.
            const int64_t first = kWindows ? (warp_cell + slot) * a.cell - begin : 0;
            float total[4] = {};
            if (!kWindows || first < 16 * (segment + 1)) {
                FAMKERN_UNROLL
                for (int part = 0; part < 4; ++part) {
                    const int lane = 16 * segment + g + part / 2 * 8;
                    if (!own_lane(lane) || (kWindows && (lane < first || lane >= first + a.cell))) continue;
                    total[part % 2 * 2] += values[part][0];
                    total[part % 2 * 2 + 1] += values[part][1];
                }
                FAMKERN_UNROLL
                for (int i = 0; i < 4; ++i)
                    for (int mask = 4; mask < 32; mask *= 2) total[i] += other_lane(total[i], mask);
            }
            if (g != 0) continue;
            float* to = sums + (((kIndex * kRows + r) * kSegments + segment) * slots() + slot) * C;
            FAMKERN_UNROLL
            for (int i = 0; i < 4; ++i) to[i / 2 * 8 + 2 * q + i % 2] = total[i];
        }
    }

    // out = clamp(post2 + normalised picture): threads q = 0 and 1 have the three channels.
    FAMKERN_DEVICE void put_picture(int64_t y, int first, const float (&sum)[4]) {
        const int g = int(threadIdx.x) % 32 / 4, q = int(threadIdx.x) % 4;
        FAMKERN_UNROLL
        for (int i = 0; i < 4; ++i) {
            const int lane = first + g + i / 2 * 8, c = 2 * q + i % 2;
            const int64_t x = begin + lane;
            if (c >= 3 || !own_row(y) || !own_lane(lane)) continue;
            const float v = sum[i] + a.bias[kLevels - 1][c] + normalised(y, x, c);
            store(static_cast<float*>(a.out[0]) + image * a.out_stride[0] + (y * a.width + x) * 3 + c, v < 0   ? 0.0f
                                                                                                       : v > 1 ? 1.0f
                                                                                                               : v);
        }
    }

    // The sums that the step at row b left behind, of all segments, to global memory.
    FAMKERN_DEVICE void add_sums(int64_t b) const {
        if (kTail) return;
        constexpr int kOuts = kKind == StageKind::group ? 2 : 1;
        for (int i = int(threadIdx.x); i < kOuts * kRows * parts() * C; i += kThreads) {
            const int c = i % C, part = i / C % parts(), r = i / C / parts() % kRows, index = i / C / parts() / kRows;
            const int64_t y = b - (kGroup && index == 0 ? 1 : kLevels) + r;
            if (!own_row(y)) continue;
            float total = 0;
            for (int segment = 0; segment < kSegments; ++segment) {
                const int slot = kWindows ? own_cell() + part - cell_at(begin + 16 * segment) : 0;
                if (slot < 0 || slot >= slots()) continue;
                total += sums[(((index * kRows + r) * kSegments + segment) * slots() + slot) * C + c];
            }
            store(a.partial[index] + (((image * a.rows + y) * a.blocks + block) * parts() + part) * C + c, total);
        }
    }
};

template <StageKind kKind, class T, bool kWindows>
FAMKERN_KERNEL(kThreads, resident(kKind))
stage_kernel(const Arguments a) {
    Stage<kKind, T, kWindows>(a).run();
}

struct Sums {
    const float* partial;  // (rows, blocks, parts, C)
    double* sums;          // (rows, cells, C)
    int64_t rows, blocks, parts, cells, cell, width, own;
};

// Sums of cells: of the blocks that a cell meets, from left to right.
FAMKERN_KERNEL(256, 1) sum_kernel(const Sums a) {
    const int64_t i = int64_t(blockIdx.x) * 256 + threadIdx.x;
    if (i >= a.rows * a.cells * C) return;
    const int64_t cell = i / C % a.cells, row = i / C / a.cells;
    const int64_t end = (cell + 1) * a.cell < a.width ? (cell + 1) * a.cell : a.width;
    double total = 0;
    for (int64_t block = cell * a.cell / a.own; block * a.own < end; ++block) {
        const int64_t part = cell - block * a.own / a.cell;
        total += load(a.partial + ((row * a.blocks + block) * a.parts + part) * C + i % C);
    }
    store(a.sums + i, total);
}

// ---- calls
// -----------------------------------------------------------------------------------------------------------

int64_t own_columns(const StageCall& call) { return kLanes - 2 * call.convolutions; }

int64_t blocks_of(const StageCall& call) { return (call.width + own_columns(call) - 1) / own_columns(call); }

int64_t parts_of(const StageCall& call) { return call.cells() == 1 ? 1 : cells_of(own_columns(call), call.cell); }

int64_t partial_floats(const StageCall& call) { return call.batch * call.rows * blocks_of(call) * parts_of(call) * C; }

int64_t shared_bytes(const StageCall& call, const Arguments& a) {
    return layout_of(call.kind, call.convolutions, a.map_count, a.direct, a.corners, a.slots).end;
}

// Blocks that a multiprocessor has room for.
int64_t fitting(const StageCall& call, const Arguments& a, const Device& device) {
    constexpr int64_t kReserved = 1024;  // CUDA's own, for each block
    const int64_t blocks = device.shared / (shared_bytes(call, a) + kReserved);
    return blocks < resident(call.kind) ? blocks : resident(call.kind);
}

// Maps that are not copied ahead: as few as let a second block reside, which works while the first one waits. GPUs with
// 100 KiB (sm_86, sm_89, sm_120) have room for two blocks of a block stage or a tail only so.
int direct_of(const StageCall& call, Arguments a, const Device& device) {
    const int staged = call.kind == StageKind::head ? 0 : staged_of(call.kind, a.map_count);
    for (int blocks = 2; blocks > 0; --blocks)
        for (a.direct = 0; a.direct <= staged; ++a.direct)
            if (fitting(call, a, device) >= blocks) return a.direct;
    return staged;  // no layout fits, and the launch will say so
}

// Rows of a run: blocks come in waves of as many as the device has room for, and the fewest rows that a multiprocessor
// computes one after another, halos included, are the quickest. Runs are not so short that most of them is halo.
int64_t run_of(const StageCall& call, int64_t room) {
    constexpr int64_t kLeast = 32;
    int64_t best = kLeast, least = INT64_MAX;
    for (int64_t runs = 1; runs <= (call.rows + kLeast - 1) / kLeast; ++runs) {
        const int64_t even = ((call.rows + runs - 1) / runs + kRows - 1) / kRows * kRows;
        const int64_t run = even < kLeast ? kLeast : even;
        const int64_t blocks = blocks_of(call) * call.batch * ((call.rows + run - 1) / run);
        const int64_t rows = (blocks + room - 1) / room * (run + 2 * call.convolutions);
        if (rows < least) best = run, least = rows;
    }
    return best;
}

// Whether gates and sums are of cells.
bool has_windows(const StageCall& call) { return call.cells() > 1 || call.gate_rows > 1 || call.gate_columns > 1; }

template <StageKind kKind, class T>
int launch(const StageCall& call, const Arguments& a, void* stream) {
    const int64_t runs = (call.rows + a.run - 1) / a.run;
    const int64_t shared = shared_bytes(call, a);
    const auto kernel = has_windows(call) ? stage_kernel<kKind, T, true> : stage_kernel<kKind, T, false>;
    return FAMKERN_LAUNCH(kernel, a.blocks * runs, call.batch, kThreads, shared, stream, a);
}

template <class T>
int launch_kind(const StageCall& call, const Arguments& a, void* stream) {
    switch (call.kind) {
        case StageKind::head:
            return launch<StageKind::head, T>(call, a, stream);
        case StageKind::block:
            return launch<StageKind::block, T>(call, a, stream);
        case StageKind::group:
            return launch<StageKind::group, T>(call, a, stream);
        case StageKind::last_group:
            return launch<StageKind::last_group, T>(call, a, stream);
        default:
            return launch<StageKind::tail, T>(call, a, stream);
    }
}

}  // namespace

int64_t workspace_bytes(const StageCall& call) {
    int64_t floats = 0;
    for (int i = 0; i < 2; ++i) floats += call.sums[i] != nullptr ? partial_floats(call) : 0;
    return 4 * floats;
}

int run_stage(const StageCall& call, void* workspace, const Device& device, void* stream) {
    Arguments a{};
    a.map_count = int(call.map_count);
    for (int64_t m = 0; m < call.map_count; ++m)
        a.maps[m] = call.maps[m].data, a.map_stride[m] = call.maps[m].image_stride;
    a.picture = static_cast<const float*>(call.image.data);
    a.picture_stride = call.image.image_stride;
    a.mean = call.mean;
    a.std = call.std;
    a.gate = call.gate;
    a.gate_rows = call.gate_rows;
    a.gate_columns = call.gate_columns;
    a.cell = call.cell < INT32_MAX ? call.cell : INT32_MAX;
    a.first_row = call.first_row;
    a.corners = !has_windows(call) || call.kind == StageKind::head ? 0
                : call.gate_columns > 1                            ? int(cells_of(kLanes, a.cell)) + 1
                                                                   : 1;
    a.slots = call.cells() > 1 ? int(cells_of(16, a.cell)) : 1;
    a.parts = int(parts_of(call));
    for (int i = 0; i < 4; ++i) a.pixel[i] = call.pixel[i];
    a.lift = call.lift.weight;
    a.lift_bias = call.lift.bias;
    for (int i = 0; i < call.convolutions; ++i)
        a.weight[i] = call.convolution[i].weight, a.bias[i] = call.convolution[i].bias;
    a.out_x = call.out_x.data;
    a.out_x_stride = call.out_x.image_stride;
    float* partial = static_cast<float*>(workspace);
    for (int i = 0; i < 2; ++i) {
        a.out[i] = call.out[i].data;
        a.out_stride[i] = call.out[i].image_stride;
        if (call.sums[i] != nullptr) a.partial[i] = partial, partial += partial_floats(call);
    }
    a.rows = call.rows;
    a.width = call.width;
    a.top = call.top;
    a.bottom = call.bottom;
    a.blocks = blocks_of(call);
    a.direct = direct_of(call, a, device);
    const int64_t fit = fitting(call, a, device);
    a.run = run_of(call, device.multiprocessors * (fit < 1 ? 1 : fit));
    int error =
        call.storage == Storage::float16 ? launch_kind<Half>(call, a, stream) : launch_kind<BFloat>(call, a, stream);
    for (int i = 0; i < 2 && error == 0; ++i) {
        if (call.sums[i] == nullptr) continue;
        const Sums of{a.partial[i], call.sums[i], call.batch * call.rows, a.blocks, a.parts, call.cells(),
                      a.cell,       call.width,   own_columns(call)};
        error = FAMKERN_LAUNCH(sum_kernel, (of.rows * of.cells * C + 255) / 256, 1, 256, 0, stream, of);
    }
    return error;
}

#ifdef __CUDACC__
int run_stage_on(int device, const StageCall& call, void* workspace, void* stream) {
    return on_device(device, [&] {
        int multiprocessors = 0, shared = 0;
        cudaError_t error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
        if (error == cudaSuccess)
            error = cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device);
        return error == cudaSuccess ? run_stage(call, workspace, {multiprocessors, shared}, stream) : int(error);
    });
}

void versions(int (&of)[2]) {
    of[0] = 0;
    cudaDriverGetVersion(&of[0]);
    of[1] = CUDART_VERSION;
}

const char* error_text(int error) { return cudaGetErrorString(cudaError_t(error)); }
#endif

}  // namespace famkern::cuda
