// The stages of the network on an NVIDIA GPU, one kernel a stage and a small one that adds up the sums of rows.
//
// A block of threads owns some columns and a run of rows, and goes down the rows, four at each step. Rings of rows in
// shared memory hold what lies between the convolutions:
//
//     step at row b            kLanes columns, of which `n` on either side are halo (n convolutions)
//
//     maps, rows b .. b+3      asynchronously copied during the step before
//     source                   x' of rows b .. b+3                        -> ring 0, x' out
//     convolve 1               rows b-1 .. b+2 of the first convolution    -> ring 1
//     convolve 2               rows b-2 .. b+1 of the second one           -> out, sums
//
//   stage        source                           convolutions
//   head         x = pre(normalised picture)      r = relu(conv1(x)) + x,  z = conv2(r)
//   block        x' = z g pa(z g) + x             r = relu(conv1(x')) + x',  z' = conv2(r)
//   group        the same                         r = conv(x') + skip -> out,  then as in a block
//   last_group   the same                         r = conv(x') + skip -> out
//   tail         o = sum of w r, o pa(o)          post1,  clamp(post2 + normalised picture)
//   down         x = 2x2 of the finer map         as in a block
//   up           x = of coarser map and skip      as in a block
//   u_tail       x' = z g pa(z g) + x             r = conv(x') + skip,  the picture of post(r)
//
// Where means are over windows (kWindows), a channel's gate is linear between the corners of cells, and sums are taken
// over the columns of each cell. Gates of the step's rows at the corners around the block's columns lie in shared
// memory; a warp adds its columns cell by cell, a block its warps, and a small kernel the blocks that a cell meets.
//
//     columns      |<- cell 0 ->|<- cell 1 ->|<- ...        corners between them
//     a block          |<- 16 ->|<- 16 ->|<- ...            a warp's columns meet two cells, or one
//
// The same bits whatever the band, the run and the batch: a pixel's arithmetic depends on its row through the gate
// and through what of a coarser pixel is meant for it alone, columns of blocks are anchored at the picture's left, sums
// are added in one order, without atomics.
#include "cuda/convolve.h"
#include "cuda/device.h"
#include "cuda/place.h"
#include "cuda/sources.h"
#include "cuda/stages.h"

namespace famkern::cuda {
namespace {

// Blocks that a multiprocessor has registers for. It may have less shared memory: see fitting().
FAMKERN_HOST_DEVICE constexpr int resident(StageKind kind) { return kind == StageKind::group ? 2 : 3; }

// Weights of a convolution in the order of its product, [tap][output][input].
template <class P>
FAMKERN_DEVICE void pack_convolution(const P& p, int level) {
    const Arguments& a = p.a;
    const bool picture = P::kMakesPicture && level == P::kLevels - 1;
    for (int i = int(threadIdx.x); i < kTaps; i += kThreads) {
        const int tap = i / (2 * C), o = i / 2 % C, first = i % 2 * 8;
        const int from = picture && a.post == 4 ? (o + 1) % 4 : o;  // the offsets first, and the gain behind them
        Chunk chunk;
        for (int pair = 0; pair < 4; ++pair) {
            float w[2];
            for (int k = 0; k < 2; ++k)
                w[k] = !picture || o < a.post ? a.weight[level][(from * C + first + 2 * pair + k) * 9 + tap] : 0.0f;
            chunk.pairs[pair] = pack<typename P::T>(w[0], w[1]);
        }
        p.weights[level * kTaps + tap * (2 * C) + swizzled(o, i % 2)] = chunk;
    }
}

// A matrix of `rows` outputs by K inputs, whose numbers are from(row, input).
template <class T, class From>
FAMKERN_DEVICE void pack_matrix(Chunk* to, int rows, int K, const From& from) {
    const int chunks = K / 8;
    for (int i = int(threadIdx.x); i < rows * chunks; i += kThreads) {
        const int row = i / chunks, first = i % chunks * 8;
        Chunk chunk;
        for (int pair = 0; pair < 4; ++pair)
            chunk.pairs[pair] = pack<T>(from(row, first + 2 * pair), from(row, first + 2 * pair + 1));
        to[swizzled(row, i % chunks, chunks)] = chunk;
    }
}

// Parameters and weights to shared memory, the columns beside the lanes to zero.
template <class P>
FAMKERN_DEVICE void prepare(const P& p) {
    const Arguments& a = p.a;
    const int t = int(threadIdx.x);
    const auto copy = [&](float* to, const float* from, int count) {
        for (int i = t; i < count; i += kThreads) to[i] = from[i];
    };
    if (P::kLifts || P::kMakesPicture) {
        copy(p.mean, a.mean, 3);
        copy(p.std, a.std, 3);
    }
    if (P::kLifts) {  // [row, column, input][output]
        for (int i = t; i < 27 * C; i += kThreads) p.lift[i] = a.lift[(i % C * 3 + i / C % 3) * 9 + i / C / 3];
        copy(p.lift_bias, a.lift_bias, C);
    }
    if (P::kGated) {
        if (!P::kWindows) copy(p.gate, a.gate + p.image * p.gate_count(), p.gate_count());
        copy(p.hidden, a.pixel[0], kHidden * C);
        copy(p.hidden_bias, a.pixel[1], kHidden);
        copy(p.output, a.pixel[2], kHidden);
        copy(p.output_bias, a.pixel[3], 1);
    }
    const Crossing& c = a.crossing;
    const int K = c.channels;
    if (P::kHalves)  // rows: tap and output
        pack_matrix<typename P::T>(p.crossing, 4 * C, K,
                                   [&](int row, int k) { return c.weight[(row % C * K + k) * 4 + row / C]; });
    if (P::kJoins) {  // rows: pixel and output; and output
        pack_matrix<typename P::T>(p.crossing, 4 * C, K, [&](int row, int k) { return c.weight[row * K + k]; });
        pack_matrix<typename P::T>(p.crossing + 4 * C * K / 8, C, C,
                                   [&](int row, int k) { return c.skip[row * C + k]; });
    }
    for (int level = 0; level < P::kLevels; ++level) pack_convolution(p, level);
    for (int i = t; i < P::kLevels * kRing * 4; i += kThreads)
        p.rings[i / 4 * kPitch * 2 + (i & 2 ? 2 * (kPitch - 1) : 0) + (i & 1)] = Chunk{};
}

template <StageKind kKind, class T, bool kWindows>
FAMKERN_KERNEL(kThreads, resident(kKind))
stage_kernel(const Arguments a) {
    using P = Place<kKind, T, kWindows>;
    constexpr int kLevels = P::kLevels;
    const P p(a);
    prepare(p);
    barrier();
    fetch(p, p.first_row - kLevels);
    for (int64_t b = p.first_row - kLevels; b - kLevels < p.end_row; b += kRows) {
        wait_for_copies();
        barrier();
        add_sums(p, b - kRows);
        source(p, b);
        barrier();
        if (b + kRows - kLevels < p.end_row) fetch(p, b + kRows);
        convolve<1>(p, b - 1);
        if constexpr (kLevels > 1) {
            barrier();
            convolve<2>(p, b - 2);
        }
        if constexpr (kLevels > 2) {
            barrier();
            convolve<3>(p, b - 3);
        }
    }
    barrier();
    const int64_t steps = (p.end_row + 2 * kLevels - p.first_row + kRows - 1) / kRows;
    add_sums(p, p.first_row - kLevels + (steps - 1) * kRows);
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

// Cells that so many columns beside each other meet, at most.
constexpr int64_t cells_of(int64_t columns, int64_t cell) { return (columns + cell - 2) / cell + 1; }

// ---- calls ---------------------------------------------------------------------------------------------------------

int64_t own_columns(const StageCall& call) { return kLanes - 2 * call.convolutions; }

int64_t blocks_of(const StageCall& call) { return (call.width + own_columns(call) - 1) / own_columns(call); }

int64_t parts_of(const StageCall& call) { return call.cells() == 1 ? 1 : cells_of(own_columns(call), call.cell); }

int64_t partial_floats(const StageCall& call) { return call.batch * call.rows * blocks_of(call) * parts_of(call) * C; }

int64_t shared_bytes(const StageCall& call, const Arguments& a) {
    return layout_of(call.kind, a, a.corners, a.slots).end;
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
    const int staged = traits_of(call.kind).staged(a.map_count);
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
        case StageKind::tail:
            return launch<StageKind::tail, T>(call, a, stream);
        case StageKind::down:
            return launch<StageKind::down, T>(call, a, stream);
        case StageKind::up:
            return launch<StageKind::up, T>(call, a, stream);
        default:
            return launch<StageKind::u_tail, T>(call, a, stream);
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
    a.corners = !has_windows(call) || call.gate == nullptr ? 0
                : call.gate_columns > 1                    ? int(cells_of(kLanes, a.cell)) + 1
                                                           : 1;
    a.slots = call.cells() > 1 ? int(cells_of(16, a.cell)) : 1;
    a.parts = int(parts_of(call));
    for (int i = 0; i < 4; ++i) a.pixel[i] = call.pixel[i];
    a.lift = call.lift.weight;
    a.lift_bias = call.lift.bias;
    a.crossing = call.crossing;
    a.post = call.convolution[call.convolutions - 1].outputs;
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
