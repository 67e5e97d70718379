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

// How a row is cut: into blocks of columns whose rings fit an L2 cache, each of whole units of tiles, as even as may
// be.
struct Columns {
    int64_t tiles, unit, units, blocks;

    explicit Columns(const StageCall& call)
        : tiles((call.width + kTileSide - 1) / kTileSide), unit(call.cells() > 1 ? call.cell / kTileSide : 1) {
        units = (tiles + unit - 1) / unit;
        const int64_t most_units = std::max<int64_t>(1, (std::max(24, 2048 / call.channels) + unit / 2) / unit);
        blocks = (units + most_units - 1) / most_units;
    }
    int64_t first_tile(int64_t block) const { return std::min(block * units / blocks * unit, tiles); }
    int64_t widest() const { return std::min((units + blocks - 1) / blocks * unit, tiles); }
};

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

inline std::vector<Task> cut(const StageCall& call, const Columns& columns, int64_t threads) {
    const int64_t strips = (call.rows + kTileSide - 1) / kTileSide, blocks = columns.blocks;
    const int64_t runs = strip_runs(strips, blocks * call.batch, threads, call.convolutions);
    std::vector<Task> tasks;
    for (int64_t image = 0; image < call.batch; ++image)
        for (int64_t run = 0; run < runs; ++run)
            for (int64_t block = 0; block < blocks; ++block)
                tasks.push_back({image, run * strips / runs, (run + 1) * strips / runs, columns.first_tile(block),
                                 columns.first_tile(block + 1), block});
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
    int64_t packed, scratch, partial;  // bytes: of all weights, of a worker, of one map's sums

    Workspace(const StageKernels& kernels, const StageCall& call, const Columns& columns) {
        packed = whole_pages(kernels.packed_bytes(call));
        scratch = whole_pages(kernels.scratch_bytes(call, columns.widest()));
        partial = call.batch * call.rows * columns.blocks * call.channels * int64_t(sizeof(double));
    }
};

// call.sums of a single cell from the sums of the blocks, `partial`: from left to right, whoever computed them.
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
    const Columns columns(call);
    const Workspace workspace(kernels, call, columns);
    const std::vector<Task> tasks = cut(call, columns, threads);
    const int64_t workers = std::min<int64_t>(threads, int64_t(tasks.size()));
    const Scratch memory = allocate(workspace.packed + workers * workspace.scratch);
    char* const packed = static_cast<char*>(memory.get());
    kernels.pack(call, packed);
    std::vector<double> sums[2];
    double* partial[2] = {};
    const bool one_cell = call.cells() == 1;
    const int64_t parts = one_cell ? columns.blocks : call.cells(),
                  numbers = call.batch * call.rows * parts * call.channels;
    for (int i = 0; i < 2; ++i)
        if (call.sums[i] != nullptr) {
            if (one_cell) sums[i].resize(numbers);
            partial[i] = one_cell ? sums[i].data() : call.sums[i];
            std::fill_n(partial[i], numbers, 0.0);
        }

    std::atomic<int64_t> next{0};
    Team::run(workers, [&](int64_t worker) {
        void* const scratch = packed + workspace.packed + worker * workspace.scratch;
        for (int64_t t = next++; t < int64_t(tasks.size()); t = next++)
            kernels.run(call, tasks[t], packed, scratch, partial, parts);
    });
    if (one_cell) add_blocks(call, partial, columns.blocks);
}

}  // namespace famkern
