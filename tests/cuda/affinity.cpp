// The CUDA kernels of the feature affinity under the emulator: formulas, odd sizes, strides, types, bits.
#include "cuda/affinity.h"

#include <cmath>
#include <cstdio>

#include "check.h"
#include "cuda/device.h"

namespace famkern::test {
namespace {

enum class Order { channels_first, channels_last, apart };  // apart: columns two numbers from each other

struct Features {  // random, with rows and columns that windows leave over
    FeatureMap map;
    int64_t images, rows, columns;
    Memory memory{0};

    Features(Type type, Order order, int64_t images, int64_t channels, int64_t rows, int64_t columns, int64_t pool,
             Random& random)
        : images(images), rows(rows), columns(columns) {
        const bool last = order == Order::channels_last;
        map = {nullptr, type, channels, pool, 0, 0, 0, 0};
        map.column_stride = last ? channels : order == Order::apart ? 2 : 1;
        map.row_stride = columns * map.column_stride;
        map.channel_stride = last ? 1 : rows * map.row_stride;
        map.image_stride = channels * rows * map.row_stride / (last ? channels : 1);
        memory = Memory(type, at(images - 1, channels - 1, rows - 1, columns - 1) + 1);
        map.data = memory.data();
        for (int64_t i = 0; i < images * channels * rows * columns; ++i)
            memory.write(
                at(i / (channels * rows * columns), i / (rows * columns) % channels, i / columns % rows, i % columns),
                random());
    }
    int64_t at(int64_t image, int64_t channel, int64_t y, int64_t x) const {
        return image * map.image_stride + channel * map.channel_stride + y * map.row_stride + x * map.column_stride;
    }
    double mean(int64_t image, int64_t channel, int64_t y, int64_t x) const {
        if (channel >= map.channels) return 0;
        double sum = 0;
        for (int64_t i = 0; i < map.pool * map.pool; ++i)
            sum += memory.read(at(image, channel, y * map.pool + i / map.pool, x * map.pool + i % map.pool));
        return sum / double(map.pool * map.pool);
    }
};

struct Case {
    Type student, teacher;
    Order order;
    int64_t images, student_channels, teacher_channels, rows, columns, student_pool, teacher_pool, left_over;

    std::string name() const {
        return std::string(kTypeNames[int(student)]) + " and " + kTypeNames[int(teacher)] + ", order " +
               std::to_string(int(order)) + ", " + std::to_string(images) + " of " + std::to_string(student_channels) +
               " and " + std::to_string(teacher_channels) + " channels, " + std::to_string(rows) + " x " +
               std::to_string(columns) + ", pools " + std::to_string(student_pool) + " and " +
               std::to_string(teacher_pool);
    }
    Features features(bool of_student, Random& random) const {
        const int64_t pool = of_student ? student_pool : teacher_pool, over = std::min(left_over, pool - 1);
        return Features(of_student ? student : teacher, order, images, of_student ? student_channels : teacher_channels,
                        rows * pool + over, columns * pool + over, pool, random);
    }
};

struct Results {
    Doubles maps, gram;
    bool operator==(const Results& other) const { return maps == other.maps && gram == other.gram; }
};

Results computed(const Case& c, const Features& student, const Features& teacher, bool backwards) {
    cuda::emulator::grid.backwards = backwards;
    cuda::AffinityMaps call{student.map, teacher.map, c.images, c.rows, c.columns, nullptr, nullptr};
    const int64_t K = 2 * call.channels();
    const Memory maps(Type::float32, c.images * K * call.positions()), gram(Type::float64, c.images * K * K);
    call.maps = maps.data<float>();
    call.gram = gram.data<double>();
    const Memory workspace(Type::float64, cuda::workspace_bytes(call) / 8);
    expect(cuda::run_affinity_maps(call, workspace.data(), nullptr) == 0, "launches");
    return {maps.all(), gram.all()};
}

bool near(const Doubles& found, const Doubles& wanted, double bound) {  // relative to the largest
    double most = 0;
    for (double value : wanted) most = std::max(most, std::abs(value));
    for (size_t i = 0; i < wanted.size(); ++i)
        if (!(std::abs(found[i] - wanted[i]) <= bound * most)) return false;
    return found.size() == wanted.size();
}

// Windows and products are right to float64 but for the errors of the two-sums' errors; maps are rounded to float32.
void test_maps(const Case& c, uint64_t seed) {
    Random random(seed);
    const Features student = c.features(true, random), teacher = c.features(false, random);
    const Results found = computed(c, student, teacher, false);
    const int64_t C = std::max(c.student_channels, c.teacher_channels), K = 2 * C, N = c.rows * c.columns;
    Results wanted{Doubles(c.images * K * N), Doubles(c.images * K * K)};
    for (int64_t i = 0; i < c.images * C * N; ++i) {
        const int64_t image = i / (C * N), channel = i / N % C, y = i % N / c.columns, x = i % N % c.columns;
        const double s = student.mean(image, channel, y, x), t = teacher.mean(image, channel, y, x);
        wanted.maps[(image * K + channel) * N + i % N] = s - t;
        wanted.maps[(image * K + C + channel) * N + i % N] = s + t;
    }
    for (int64_t i = 0; i < c.images * K * K; ++i)
        for (int64_t n = 0; n < N; ++n)
            wanted.gram[i] +=
                wanted.maps[(i / (K * K) * K + i / K % K) * N + n] * wanted.maps[(i / (K * K) * K + i % K) * N + n];
    expect(near(found.maps, wanted.maps, 0x1p-24), c.name() + ": maps");
    expect(near(found.gram, wanted.gram, 1e-11), c.name() + ": gram");
    expect(computed(c, student, teacher, true) == found, c.name() + ": threads backwards");
}

// The gradient of the student's map: right to its type, and nothing outside the windows.
void test_spread(const Case& c, uint64_t seed) {
    Random random(seed);
    Features gradient = c.features(true, random);
    const Doubles before = gradient.memory.all();
    const int64_t C = c.student_channels, K = 2 * std::max(C, c.teacher_channels), N = c.rows * c.columns;
    const Memory maps(Type::float32, c.images * K * N), coefficients(Type::float64, c.images * C * K);
    for (int64_t i = 0; i < c.images * K * N; ++i) maps.data<float>()[i] = float(random());
    for (int64_t i = 0; i < c.images * C * K; ++i) coefficients.data<double>()[i] = random();
    cuda::emulator::grid.backwards = seed % 2 == 0;
    const cuda::AffinitySpread call{
        gradient.map, c.images, c.rows, c.columns, K, maps.data<float>(), coefficients.data<double>()};
    expect(cuda::run_affinity_spread(call, nullptr) == 0, "launches");
    Doubles wanted = before;
    const int64_t pool = c.student_pool;
    for (int64_t i = 0; i < c.images * C * N; ++i) {
        const int64_t image = i / (C * N), channel = i / N % C, n = i % N;
        double sum = 0;
        for (int64_t k = 0; k < K; ++k)
            sum += coefficients.read((image * C + channel) * K + k) * maps.read((image * K + k) * N + n);
        for (int64_t p = 0; p < pool * pool; ++p)
            wanted[gradient.at(image, channel, n / c.columns * pool + p / pool, n % c.columns * pool + p % pool)] =
                rounded(float(sum / double(pool * pool)), c.student);
    }
    const Doubles found = gradient.memory.all();
    const double step = c.student == Type::float32 ? 0x1p-23 : c.student == Type::float16 ? 0x1p-10 : 0x1p-7;
    bool same = true;  // up to the next number of the type; NaN, between columns that are apart, stays
    for (size_t i = 0; i < wanted.size(); ++i)
        same = same && (std::isnan(wanted[i]) ? std::isnan(found[i])
                                              : std::abs(found[i] - wanted[i]) <= step * std::abs(wanted[i]));
    expect(same, c.name() + ": spread");
}

int run_all() {
    constexpr Type f = Type::float32, h = Type::float16, b = Type::bfloat16;
    constexpr Order first = Order::channels_first, last = Order::channels_last, apart = Order::apart;
    const Case cases[] = {
        {f, f, first, 1, 3, 3, 9, 10, 4, 8, 0},   // the paper's pools: 16 bytes at a time
        {f, f, first, 1, 1, 1, 1, 1, 1, 1, 0},    // one position
        {f, f, first, 2, 3, 5, 1, 67, 2, 3, 1},   // 8 bytes at a time, and number by number
        {h, f, first, 1, 8, 2, 23, 13, 8, 4, 3},  // more positions than a tile has, as many channels as there may be
        {h, h, first, 2, 3, 3, 5, 3, 4, 8, 0},   {b, h, last, 1, 4, 3, 17, 17, 3, 2, 2},
        {f, b, apart, 1, 2, 7, 4, 9, 4, 1, 1},
    };
    for (const Case& c : cases) {
        test_maps(c, uint64_t(&c - cases));
        test_spread(c, uint64_t(&c - cases));
    }
    // Blocks of several tiles, the last of them cut.
    test_maps({f, f, first, 1, 1, 1, 1, 131400, 1, 1, 0}, 1);
    std::printf("%d checks of the affinity, %d failed\n", checks, failures);
    return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace famkern::test

int main() { return famkern::test::run_all(); }
