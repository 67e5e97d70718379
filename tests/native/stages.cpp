// The stages compute what the formulas say, whatever the size, the cut into bands and tasks, and the threads.
#include "cpu/tasks.h"
#include "stage_cases.h"

namespace famkern {

FAMKERN_KERNELS(StageKernels, stage_kernels)

namespace test {
namespace {

// ---- running the kernels -------------------------------------------------------------------------------------------

Run on_threads(const StageKernels& kernels, int64_t threads) {
    return [&kernels, threads](const StageCall& call) { run_stage(kernels, call, threads); };
}

// Stored past the caches, as large maps are.
Run streamed(const StageKernels& kernels) {
    return [&kernels](StageCall call) {
        call.stream = true;
        run_stage(kernels, call, 3);
    };
}

// The last task first, each in memory of its own that nothing was written to before.
Run task_by_task(const StageKernels& kernels) {
    return [&kernels](const StageCall& call) {
        const Columns columns(call);
        const Memory packed(kernels.packed_bytes(call));
        kernels.pack(call, packed.data());
        const bool one_cell = call.cells() == 1;
        const int64_t parts = one_cell ? columns.blocks : call.cells();
        Doubles sums[2];
        double* partial[2] = {};
        for (int i = 0; i < 2 && call.sums[i] != nullptr; ++i) {
            sums[i].resize(call.batch * call.rows * parts * call.channels);
            partial[i] = sums[i].data();
        }
        std::vector<Task> tasks = cut(call, columns, 3);
        std::reverse(tasks.begin(), tasks.end());
        for (const Task& task : tasks) {
            const Memory scratch(kernels.scratch_bytes(call, task.end_tile - task.first_tile));
            kernels.run(call, task, packed.data(), scratch.data(), partial, parts);
        }
        if (one_cell) add_blocks(call, partial, columns.blocks);
        for (int i = 0; i < 2 && !one_cell && call.sums[i] != nullptr; ++i)
            std::copy(sums[i].begin(), sums[i].end(), call.sums[i]);
    };
}

// ---- tests ---------------------------------------------------------------------------------------------------------

// Up to the errors that Winograd's tiles may make beside the largest value.
void expect_near(const Results& results, const Results& wanted, const std::string& name) {
    constexpr double kError = 2e-5;
    for (size_t i = 0; i < wanted.maps.size(); ++i) {
        const Doubles& map = wanted.maps[i].values;
        expect(near(results.maps[i].values, map, kError * wanted.magnitude * largest(map)),
               name + ": output " + std::to_string(i));
    }
    const double bound = kError * largest(wanted.maps.back().values) * double(wanted.maps[0].width);
    for (size_t i = 0; i < wanted.sums.size(); ++i)
        expect(near(results.sums[i].values, wanted.sums[i].values, bound), name + ": sums " + std::to_string(i));
}

// Maps stored in 16 bits too: arithmetic and sums are those of float32, only what is written is rounded.
void test_formulas(const Stage& stage, int channels, int64_t batch, int64_t rows, int64_t width,
                   int64_t cell = INT32_MAX) {
    const Case c(stage, channels, batch, rows, width, cell);
    const Results wanted = expected(c);
    for (InstructionSet isa : instruction_sets()) {
        const Run run = on_threads(FAMKERN_TABLE(stage_kernels, isa), 1);
        expect_near(computed(c, Type::float32, rows, 0, run), wanted, c.name(isa, Type::float32));
        for (Type storage : {Type::float16, Type::bfloat16}) {
            Case stored = c;
            stored.maps.push_back(stored.other);
            for (Array& map : stored.maps)
                for (double& value : map.values) value = rounded(value, storage);
            stored.other = stored.maps.back();
            stored.maps.pop_back();
            Results exact = computed(stored, Type::float32, rows, 0, run);
            for (Array& map : exact.maps)
                for (double& value : map.values) value = stage.head ? value : rounded(value, storage);
            expect(computed(stored, storage, rows, 0, run) == exact, c.name(isa, storage) + ": rounded once");
        }
    }
}

void test_bits(const Stage& stage, int channels, Type storage, int64_t batch, int64_t rows, int64_t width,
               int64_t cell = INT32_MAX) {
    const Case c(stage, channels, batch, rows, width, cell);
    for (InstructionSet isa : instruction_sets()) {
        const StageKernels& kernels = FAMKERN_TABLE(stage_kernels, isa);
        const Results whole = computed(c, storage, rows, 0, on_threads(kernels, 1));
        const auto expect_same = [&](int64_t band, const Run& run, const char* what) {
            expect(computed(c, storage, band, c.halo(), run) == whole,
                   c.name(isa, storage) + ": bands of " + std::to_string(band) + " rows, " + what);
        };
        expect_same(4, on_threads(kernels, 1), "one thread");
        expect_same(12, on_threads(kernels, 2), "two threads");
        expect_same(rows, streamed(kernels), "past the caches");
        expect_same(8, task_by_task(kernels), "task by task");
    }
}

// Fewer rows of halo than whole tiles, and bands that start anywhere: same values, other roundings.
void test_bare_halo(const Stage& stage, int channels) {
    const Case c(stage, channels, 1, 17, 11);
    const Results wanted = expected(c);
    for (InstructionSet isa : instruction_sets()) {
        const Run run = task_by_task(FAMKERN_TABLE(stage_kernels, isa));
        expect_near(computed(c, Type::float32, 3, 3, run), wanted, c.name(isa, Type::float32) + ": a halo of 3 rows");
    }
}

int64_t blocks_of(int64_t width, int channels) {
    StageCall call{};
    call.width = call.cell = width;
    call.channels = channels;
    return Columns(call).blocks;
}

}  // namespace

void test_stages() {
    struct Size {
        int64_t rows, width;
    };
    // One pixel, lines, less than a tile, tiles and one more, primes.
    const Size sizes[] = {{1, 1}, {1, 19}, {23, 1}, {3, 2}, {4, 4}, {5, 9}, {13, 31}};
    for (const Stage& stage : kStages)
        for (int channels : {16, 32, 64}) {
            if (left_out(int(&stage - kStages), channels / 32, 3)) continue;
            for (const Size& size : sizes) test_formulas(stage, channels, 1, size.rows, size.width);
            int64_t wide = 1;  // more than one block of columns
            while (blocks_of(wide, channels) == 1) wide += 4;
            test_formulas(stage, channels, 2, 1, wide);
            test_bits(stage, channels, kStorages[channels / 16 % 3], 2, 23, 7);
            test_bits(stage, channels, kStorages[channels / 32 % 3], 1, 5, wide);
            test_formulas(stage, channels, 2, 9, 29, 4);
            test_formulas(stage, channels, 1, 2, wide, 12);
            test_bits(stage, channels, kStorages[channels / 16 % 3], 2, 23, 37, 8);
            test_bits(stage, channels, kStorages[channels / 32 % 3], 1, 5, wide, 48);
            test_bare_halo(stage, channels);
        }
}

}  // namespace test
}  // namespace famkern
