// A call of a stage from beginning to end: its cut into tasks, the memory it works in, its threads, the sums of its
// rows. Knows no torch.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "cpu/stage.h"
#include "cpu/team.h"

namespace famkern {

// Blocks of columns whose rings fit an L2 cache; by width and channels alone.
inline int64_t column_blocks(int64_t tiles_across, int channels) {
    const int64_t most_tiles = std::max(24, 2048 / channels);
    return (tiles_across + most_tiles - 1) / most_tiles;
}

// Runs of strips: as few as keep all threads busy, since every run computes (convolutions - 1) strips more on either
// side.
inline int64_t strip_runs(int64_t strips, int64_t blocks, int64_t threads, int convolutions) {
    int64_t best = 1;
    double least = 0;
    for (int64_t runs = 1; runs <= std::min(strips, 4 * threads); ++runs) {
        const double turns = double((runs * blocks + threads - 1) / threads);
        const double cost = turns * (double(strips) / double(runs) + (convolutions - 1));
        if (runs == 1 || cost < 0.99 * least) best = runs, least = cost;
    }
    return best;
}

inline std::vector<Task> cut(const StageCall& call, int64_t blocks, int64_t threads) {
    const int64_t strips = (call.rows + kTileSide - 1) / kTileSide;
    const int64_t tiles = (call.width + kTileSide - 1) / kTileSide;
    const int64_t runs = strip_runs(strips, blocks * call.batch, threads, call.convolutions);
    std::vector<Task> tasks;
    for (int64_t image = 0; image < call.batch; ++image)
        for (int64_t run = 0; run < runs; ++run)
            for (int64_t block = 0; block < blocks; ++block)
                tasks.push_back({image, run * strips / runs, (run + 1) * strips / runs, block * tiles / blocks,
                                 (block + 1) * tiles / blocks, block});
    return tasks;
}

using Scratch = std::unique_ptr<void, decltype(&std::free)>;

inline int64_t whole_pages(int64_t bytes) { return (bytes + 4095) / 4096 * 4096; }

inline Scratch allocate(int64_t bytes) {
    void* data = std::aligned_alloc(4096, size_t(whole_pages(bytes)));
    if (data == nullptr) throw std::bad_alloc();
    return {data, &std::free};
}

// The memory that a call works in.
struct Workspace {
    int64_t blocks, packed, scratch, partial;  // of columns; bytes: of all weights, of a worker, of one map's sums

    Workspace(const StageKernels& kernels, const StageCall& call) {
        const int64_t tiles = (call.width + kTileSide - 1) / kTileSide;
        blocks = column_blocks(tiles, call.channels);
        packed = whole_pages(kernels.packed_bytes(call));
        scratch = whole_pages(kernels.scratch_bytes(call, (tiles + blocks - 1) / blocks));
        partial = call.batch * call.rows * blocks * call.channels * int64_t(sizeof(double));
    }
};

// call.sums from the sums of the blocks, `partial`: from left to right, whoever computed them.
inline void add_blocks(const StageCall& call, const double* const* partial, int64_t blocks) {
    for (int i = 0; i < 2; ++i)
        for (int64_t row = 0; call.sums[i] != nullptr && row < call.batch * call.rows; ++row)
            for (int c = 0; c < call.channels; ++c) {
                double sum = 0;
                for (int64_t block = 0; block < blocks; ++block)
                    sum += partial[i][(row * blocks + block) * call.channels + c];
                call.sums[i][row * call.channels + c] = sum;
            }
}

inline void run_stage(const StageKernels& kernels, const StageCall& call, int64_t threads) {
    if (call.batch == 0 || call.rows == 0 || call.width == 0) return;
    const Workspace workspace(kernels, call);
    const int64_t blocks = workspace.blocks;
    const std::vector<Task> tasks = cut(call, blocks, threads);
    const int64_t workers = std::min<int64_t>(threads, int64_t(tasks.size()));
    const Scratch memory = allocate(workspace.packed + workers * workspace.scratch);
    char* const packed = static_cast<char*>(memory.get());
    kernels.pack(call, packed);
    std::vector<double> sums[2];
    double* partial[2] = {};
    for (int i = 0; i < 2; ++i)
        if (call.sums[i] != nullptr) {
            sums[i].resize(call.batch * call.rows * blocks * call.channels);
            partial[i] = sums[i].data();
        }

    std::atomic<int64_t> next{0};
    Team::run(workers, [&](int64_t worker) {
        void* const scratch = packed + workspace.packed + worker * workspace.scratch;
        for (int64_t t = next++; t < int64_t(tasks.size()); t = next++)
            kernels.run(call, tasks[t], packed, scratch, partial, blocks);
    });
    add_blocks(call, partial, blocks);
}

}  // namespace famkern
