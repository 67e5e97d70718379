// The CUDA stages under the emulator: formulas, odd sizes, bits, whatever the cut and the order of threads.
#include "cuda/stages.h"

#include <algorithm>
#include <cstdio>

#include "cuda/device.h"
#include "stage_cases.h"

namespace famkern::test {
namespace {

constexpr int64_t kLarge = 227 << 10, kSmall = 100 << 10;  // shared memory of sm_90; of sm_86, sm_89

Run emulated(int multiprocessors, bool backwards, int64_t shared = kLarge) {
    return [=](const StageCall& call) {
        cuda::emulator::grid.backwards = backwards;
        const Memory workspace(std::max<int64_t>(cuda::workspace_bytes(call), 4));
        expect(cuda::run_stage(call, workspace.data(), {multiprocessors, shared}, nullptr) == 0, "launches");
    };
}

constexpr int64_t kOneCell = INT32_MAX;

std::string name_of(const Case& c, Type type) {
    return std::string(c.stage.name) + ", " + kTypeNames[int(type)] + ", " + std::to_string(c.picture.batch) + " x " +
           std::to_string(c.picture.rows) + " x " + std::to_string(c.picture.width) +
           (c.cell == kOneCell ? "" : ", cells of " + std::to_string(c.cell));
}

double largest_error(const Array& a, const Array& b) {
    double most = 0;
    for (size_t i = 0; i < a.values.size(); ++i) {
        const double error = std::abs(a.values[i] - b.values[i]);
        most = error <= most ? most : error;
        if (error != error) return INFINITY;
    }
    return most;
}

// A case whose maps, pictures excepted, and weights are numbers of the type.
Case stored(const Stage& stage, Type type, int64_t batch, int64_t rows, int64_t width, int64_t cell = kOneCell) {
    Case c(stage, 16, batch, rows, width, cell);
    for (Array& map : c.maps)
        for (double& value : map.values) value = rounded(value, type);
    return c;
}

// Errors at most twice those of the same operations, each rounded to the type, on weights rounded to it.
void test_formulas(const Stage& stage, Type type, int64_t batch, int64_t rows, int64_t width, int64_t cell = kOneCell) {
    const Case c = stored(stage, type, batch, rows, width, cell);
    const Results wanted = expected(c), found = computed(c, type, rows, 0, emulated(1, rows % 2 == 0));
    Case coarse = c;
    coarse.precision = type;
    for (Layer& layer : coarse.layers)
        for (float& weight : layer.weight) weight = float(rounded(weight, type));
    const Results rough = expected(coarse);
    const double step = type == Type::float16 ? 0x1p-11 : 0x1p-8;
    for (size_t i = 0; i < wanted.maps.size(); ++i) {
        const double bound =
            2 * largest_error(rough.maps[i], wanted.maps[i]) + step * largest(wanted.maps[i].values) / 8;
        const double error = largest_error(found.maps[i], wanted.maps[i]);
        expect(error <= bound, name_of(c, type) + ": output " + std::to_string(i) + " is " + std::to_string(error) +
                                   " off, more than " + std::to_string(bound));
    }
    // Sums are of what is stored, up to its rounding.
    for (size_t i = 0; i < wanted.sums.size(); ++i) {
        const Array& map = found.maps[i + stage.writes_x];
        const double bound = step * largest(map.values) * double(std::min(width, cell));
        expect(largest_error(found.sums[i], row_sums(map, c.cell)) <= bound,
               name_of(c, type) + ": sums " + std::to_string(i));
    }
}

void test_bits(const Stage& stage, Type type, int64_t batch, int64_t rows, int64_t width, int64_t cell = kOneCell) {
    const Case c = stored(stage, type, batch, rows, width, cell);
    const Results whole = computed(c, type, rows, 0, emulated(1, false));
    expect(computed(c, type, rows, 0, emulated(1, true)) == whole, name_of(c, type) + ": threads backwards");
    expect(computed(c, type, rows, 0, emulated(16, true)) == whole, name_of(c, type) + ": in more blocks");
    cuda::emulator::shared_bytes = 0;
    expect(computed(c, type, rows, 0, emulated(1, false, kSmall)) == whole,
           name_of(c, type) + ": little shared memory");
    const bool two = stage.kind != StageKind::group;  // blocks fit
    expect((2 * (cuda::emulator::shared_bytes + 1024) <= kSmall) == two,
           name_of(c, type) + ": blocks in little shared memory");
    for (int64_t band : quick ? std::vector<int64_t>{19} : std::vector<int64_t>{7, 24})
        expect(computed(c, type, band, stage.convolutions + c.head(), emulated(1, false)) == whole,
               name_of(c, type) + ": bands of " + std::to_string(band) + " rows");
}

// KiB of shared memory of a block, where there is enough of it.
double shared_memory(const Stage& stage, int64_t cell) {
    cuda::emulator::shared_bytes = 0;
    computed(stored(stage, Type::float16, 1, 1, 2 * 48, cell), Type::float16, 1, 0, emulated(1, false));
    return double(cuda::emulator::shared_bytes) / 1024;
}

// Every map is read once, but for the halo, and written once. famkern/engine/traffic.py counts the same from the line.
// Prints what docs/gpu-kernels.md says of the stage.
void test_traffic(const Stage& stage, int64_t rows, int64_t width) {
    constexpr int64_t kMap = 16 * 2, kPicture = 3 * 4, kSum = 16 * 4, kLanes = 64, kStep = 4;  // bytes; as in place.h
    const Case c = stored(stage, Type::float16, 1, rows, width);
    cuda::emulator::traffic = {};
    computed(c, Type::float16, rows, 0, emulated(1, false));
    const cuda::emulator::Traffic found = cuda::emulator::traffic;

    const int64_t n = stage.convolutions, own = kLanes - 2 * n, blocks = (width + own - 1) / own;
    const int64_t pixels = rows * width, halo_rows = (rows + 2 * n + kStep - 1) / kStep * kStep;
    const int64_t with_halo = blocks * kLanes * halo_rows;
    const int64_t sums = stage.head ? 0 : stage.outputs, partial = sums * rows * blocks * kSum;
    // The head convolves the picture itself, six rows of 66 columns for four rows of a step; they stay in the caches.
    const int64_t lifted = blocks * (kLanes + 2) * halo_rows / kStep * (kStep + 2);
    // A pixel of the other level is read once, or, where it becomes four, once for each of them: from the caches.
    const Array& other = c.other;
    const int64_t crossing = c.down() || c.up() ? other.rows * other.width * other.channels * 2 : 0;
    const int64_t crossings = with_halo * other.channels * 2 * (c.down() ? 4 : c.up() ? 1 : 0);
    const int64_t least = pixels * (stage.maps * kMap + stage.picture * kPicture) + crossing + partial;
    const int64_t most = with_halo * stage.maps * kMap + crossings +
                         (c.head()     ? lifted
                          : stage.head ? pixels
                                       : 0) *
                             kPicture +
                         partial;
    const int64_t maps_out = (stage.head ? 0 : stage.outputs) + stage.writes_x;
    const int64_t written = pixels * (maps_out * kMap + (stage.head > 0) * kPicture) + partial + sums * rows * 2 * kSum;
    const std::string name = name_of(c, Type::float16);
    expect(found.read >= least && found.read <= most, name + ": reads " + std::to_string(found.read) + " bytes, not " +
                                                          std::to_string(least) + " to " + std::to_string(most));
    expect(found.written == written,
           name + ": writes " + std::to_string(found.written) + " bytes, not " + std::to_string(written));
    std::printf("%s: %.1f KiB of shared memory, %.1f over windows; %.1f to %.1f bytes a pixel read, %.1f written\n",
                stage.name, shared_memory(stage, kOneCell), shared_memory(stage, 48), double(least) / double(pixels),
                double(found.read) / double(pixels), double(found.written) / double(pixels));
}

// A gate for all, which may stand beside sums of cells.
void test_one_gate(const Stage& stage, int64_t rows, int64_t width, int64_t cell) {
    Case c = stored(stage, Type::float16, 1, rows, width);
    if (!c.gated()) return;
    const Results wanted = computed(c, Type::float16, rows, 0, emulated(1, false));
    c.cell = cell;
    const Results found = computed(c, Type::float16, rows, 0, emulated(1, false));
    expect(found.maps == wanted.maps, name_of(c, Type::float16) + ": one gate beside cells");
}

// Of the stages whose names begin with one of these, or of all. In the quick mode each has formulas in both types, over
// windows too, and bits; stages beside each other have them at other sizes.
int run_all(const std::vector<std::string>& names) {
    struct Size {
        int64_t rows, width;
    };
    // Cells that a warp's columns meet five of, that run down alone, or across alone, that blocks cut anywhere.
    const struct {
        Size size;
        int64_t cell;
    } windows[] = {{{9, 61}, 4}, {{18, 5}, 8}, {{1, 130}, 48}, {{13, 70}, 12}};
    const Size sizes[] = {{1, 1}, {1, 70}, {9, 2}, {5, 59}, {6, 61}, {3, 63}};
    for (const Stage& stage : kStages) {
        const auto is_stage = [&](const std::string& name) { return std::string(stage.name).rfind(name, 0) == 0; };
        if (!names.empty() && std::none_of(names.begin(), names.end(), is_stage)) continue;
        const int place = int(&stage - kStages);
        const auto one_of = [place, number = 0](int count) mutable { return !left_out(place, number++, count); };
        auto formulas = one_of, of_windows = one_of, bits = one_of;
        for (Type type : {Type::float16, Type::bfloat16})
            for (const Size& size : sizes)
                if (formulas(6)) test_formulas(stage, type, 1, size.rows, size.width);
        if (formulas(6)) test_formulas(stage, Type::float16, 2, 7, 5);
        for (const auto& [size, cell] : windows)
            if (of_windows(5)) test_formulas(stage, Type::float16, 1, size.rows, size.width, cell);
        if (of_windows(5)) test_formulas(stage, Type::bfloat16, 2, 11, 13, 8);
        if (bits(3)) test_bits(stage, Type::float16, 1, 37, 67);
        if (bits(3)) test_bits(stage, Type::bfloat16, 2, 33, 3);
        if (bits(3)) test_bits(stage, Type::float16, 1, 37, 67, 12);
        test_one_gate(stage, 5, 70, 12);
        test_traffic(stage, 24, 120);
    }
    expect(checks > 0, "there are such stages");
    std::printf("%d checks, %d failed\n", checks, failures);
    return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace famkern::test

int main(int count, char** arguments) {
    std::vector<std::string> names(arguments + 1, arguments + count);
    const auto quick = std::find(names.begin(), names.end(), "quick");
    if (quick != names.end()) famkern::test::quick = true, names.erase(quick);
    return famkern::test::run_all(names);
}
