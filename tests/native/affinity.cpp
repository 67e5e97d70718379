// The affinity kernels compute what their formulas say, written out directly in double here, from maps of any type and
// strides, and the same bits for all strides and instruction sets. The contracts are in csrc/cpu/kernels, these tests'
// twins in tests/ops/test_affinity.py.
#include "cpu/affinity.h"

#include "maps.h"

namespace famkern {

FAMKERN_KERNELS(AffinityMapsKernels, affinity_maps_kernels)
FAMKERN_KERNELS(AffinityTiledKernels, affinity_tiled_kernels)

namespace test {
namespace {

enum class Layout { contiguous, channels_last, apart };  // apart: every third column of rows that are too long
constexpr Layout kLayouts[] = {Layout::contiguous, Layout::channels_last, Layout::apart};
constexpr Type kTypes[] = {Type::float32, Type::float64, Type::float16, Type::bfloat16};

struct Case {
    int64_t images, teacher_channels, student_channels;  // no channels: no teacher
    int64_t rows, columns;                               // of the pooled grid
    int64_t teacher_pool, student_pool, left_over;       // rows and columns in no window, at most
    Type type;
    bool normalize;

    int64_t positions() const { return rows * columns; }
    int64_t maps() const { return teacher_channels > 0 ? 2 : 1; }
    int64_t height() const { return maps() * std::max(teacher_channels, student_channels); }
    std::string name() const {
        std::string name = kTypeNames[int(type)];
        for (int64_t n : {images, teacher_channels, student_channels, rows, columns, teacher_pool, student_pool})
            name += " " + std::to_string(n);
        return name + (normalize ? " normalised" : "");
    }
};

struct Features {  // B x C x H x W
    int64_t images, rows, columns;
    FeatureMap map;
    Memory memory{0};

    Features(const Case& c, int64_t channels, int64_t pool, Layout layout)
        : images(c.images),
          rows(c.rows * pool + std::min(c.left_over, pool - 1)),
          columns(c.columns * pool + std::min(c.left_over, pool - 1)) {
        const bool last = layout == Layout::channels_last, apart = layout == Layout::apart;
        map = {nullptr, c.type, channels, pool, 0, 0, 0, 0};
        map.column_stride = last ? channels : apart ? 3 : 1;
        map.row_stride = columns * map.column_stride + apart;
        map.channel_stride = last ? 1 : rows * map.row_stride;
        map.image_stride = (last ? 1 : channels) * rows * map.row_stride;
        memory = Memory(c.type, at(images - 1, channels - 1, rows - 1, columns - 1) + 1);
        map.data = memory.data();
    }

    int64_t at(int64_t image, int64_t channel, int64_t y, int64_t x) const {
        return image * map.image_stride + channel * map.channel_stride + y * map.row_stride + x * map.column_stride;
    }

    // visit(image, channel, y, x, place in memory), in this order
    template <class Visit>
    void each(const Visit& visit) const {
        for (int64_t b = 0; b < images; ++b)
            for (int64_t c = 0; c < map.channels; ++c)
                for (int64_t y = 0; y < rows; ++y)
                    for (int64_t x = 0; x < columns; ++x) visit(b, c, y, x, at(b, c, y, x));
    }

    void fill(Random& random) {
        each([&](int64_t, int64_t, int64_t, int64_t, int64_t at) { memory.write(at, random()); });
    }
};

// ---- formulas ------------------------------------------------------------------------------------------------------

struct Pooled {
    Doubles means, inverse;  // [B, C, N], [B, N]
};

Pooled pool(const Case& c, const Features& features) {
    const int64_t N = c.positions(), C = features.map.channels, side = features.map.pool;
    Pooled pooled{Doubles(c.images * C * N), Doubles(c.images * N)};
    features.each([&](int64_t b, int64_t channel, int64_t y, int64_t x, int64_t at) {
        if (y / side < c.rows && x / side < c.columns)
            pooled.means[(b * C + channel) * N + y / side * c.columns + x / side] +=
                features.memory.read(at) / double(side * side);
    });
    for (int64_t i = 0; c.normalize && i < c.images * N; ++i) {
        double* mean = &pooled.means[i / N * C * N + i % N];
        double square = 0;
        for (int64_t channel = 0; channel < C; ++channel) square += mean[channel * N] * mean[channel * N];
        pooled.inverse[i] = 1 / std::sqrt(square);
        for (int64_t channel = 0; channel < C; ++channel) mean[channel * N] *= pooled.inverse[i];
    }
    return pooled;
}

// [S' - T'; S' + T'], or S' alone: [B, K, N]
Doubles expected_maps(const Case& c, const Doubles& student, const Doubles& teacher) {
    const int64_t N = c.positions(), K = c.height(), half = K / 2;
    if (c.maps() == 1) return student;
    Doubles maps(c.images * K * N);
    for (int64_t i = 0; i < int64_t(maps.size()); ++i) {
        const int64_t b = i / (K * N), k = i / N % K, channel = k % half;
        const auto value = [&](const Doubles& of, int64_t channels) {
            return channel < channels ? of[(b * channels + channel) * N + i % N] : 0;
        };
        const double s = value(student, c.student_channels), t = value(teacher, c.teacher_channels);
        maps[i] = k < half ? s - t : s + t;
    }
    return maps;
}

Doubles expected_grams(const Case& c, const Doubles& maps) {  // [B, K, K]
    const int64_t N = c.positions(), K = c.height();
    Doubles grams(c.images * K * K);
    for (int64_t b = 0; b < c.images; ++b)
        for (int64_t i = 0; i < K; ++i)
            for (int64_t j = 0; j < K; ++j)
                for (int64_t n = 0; n < N; ++n)
                    grams[(b * K + i) * K + j] += maps[(b * K + i) * N + n] * maps[(b * K + j) * N + n];
    return grams;
}

// sum of |a_ij|, a = (X M)^T M / 2, and X M sign(a), where X swaps the halves: [B], [B, K, N]
void expected_l1(const Case& c, const Doubles& maps, Doubles& sums, Doubles& gradient) {
    const int64_t N = c.positions(), K = c.height();
    sums.assign(c.images, 0);
    gradient.assign(c.images * K * N, 0);
    for (int64_t b = 0; b < c.images; ++b) {
        const double* M = &maps[b * K * N];
        const auto swapped = [&](int64_t k) { return M + (k + K / 2) % K * N; };
        for (int64_t i = 0; i < N; ++i)
            for (int64_t j = 0; j < N; ++j) {
                double a = 0;
                for (int64_t k = 0; k < K; ++k) a += swapped(k)[i] * M[k * N + j] / 2;
                sums[b] += std::abs(a);
                for (int64_t k = 0; k < K; ++k)
                    gradient[(b * K + k) * N + i] += swapped(k)[j] * double((a > 0) - (a < 0));
            }
    }
}

// ---- running the kernels -------------------------------------------------------------------------------------------

// Up to an error beside the largest value, and the rounding of what is stored.
bool near(const Doubles& values, const Doubles& wanted, Type stored, double error) {
    constexpr double units[] = {0x1p-24, 0, 0x1p-11, 0x1p-8};  // float32, float64, float16, bfloat16
    const double bound = error * largest(wanted);
    bool near = values.size() == wanted.size();
    for (size_t i = 0; near && i < values.size(); ++i)
        near = std::abs(values[i] - wanted[i]) <= units[int(stored)] * std::abs(wanted[i]) + bound;
    return near;
}

// Checks all results for a case, and returns them in one row.
Doubles check(const Case& c, Layout layout, InstructionSet isa) {
    const std::string name = name_of(isa) + ": affinity, " + c.name() + ": ";
    const int64_t B = c.images, N = c.positions(), K = c.height(), C = c.student_channels;
    const Type wide = c.type == Type::float64 ? Type::float64 : Type::float32;
    const double error = c.type == Type::float64 ? 1e-12 : 1e-7;
    Doubles all;
    const auto expect_near = [&](const Doubles& values, const Doubles& wanted, Type stored, double error,
                                 const char* what) {
        expect(near(values, wanted, stored, error), name + what);
        all.insert(all.end(), values.begin(), values.end());
    };
    Random random(uint64_t(c.rows * 1000 + c.columns));
    Features student(c, C, c.student_pool, layout);
    Features teacher(c, std::max<int64_t>(1, c.teacher_channels), c.teacher_pool, layout);
    student.fill(random);
    teacher.fill(random);

    const AffinityMapsKernels& kernels = FAMKERN_TABLE(affinity_maps_kernels, isa);
    const Grid grid{B, c.rows, c.columns, (c.rows + 2) / 3};
    const Memory maps(wide, B * K * N), inverse(wide, B * c.maps() * N);
    Doubles partials(grid.chunks() * K * K), grams(B * K * K);
    MapsJob job{};
    job.grid = grid;
    job.sources[0] = student.map;
    job.sources[1] = teacher.map;
    job.count = c.maps();
    job.height = K;
    job.normalize = c.normalize;
    job.wide = wide == Type::float64;
    job.maps = maps.data();
    job.inverse = inverse.data();
    job.partials = c.maps() == 2 ? partials.data() : nullptr;
    for (int64_t chunk = grid.chunks(); chunk-- > 0;) kernels.maps(job, chunk);
    for (int64_t i = 0; i < int64_t(partials.size()); ++i)
        grams[i / (K * K) / grid.chunks_per_image() * K * K + i % (K * K)] += partials[i];

    const Pooled of_student = pool(c, student), of_teacher = pool(c, teacher);
    const Doubles wanted = expected_maps(c, of_student.means, of_teacher.means);
    const Doubles given = maps.all();
    expect_near(given, wanted, wide, 1e-12, "maps");
    if (c.maps() == 2) expect_near(grams, expected_grams(c, wanted), Type::float64, 1e-12, "Gram matrix");
    if (c.normalize) {
        Doubles inverses;  // [B, count, N]
        for (int64_t b = 0; b < B; ++b)
            for (int64_t m = 0; m < c.maps(); ++m) {
                const Doubles& from = (m == 0 ? of_student : of_teacher).inverse;
                inverses.insert(inverses.end(), &from[b * N], &from[b * N] + N);
            }
        expect_near(inverse.all(), inverses, wide, 1e-12, "lengths");
    }

    Doubles coefficients(B * C * K);  // [B, C, K]
    for (double& value : coefficients) value = random();
    Features gradient(c, C, c.student_pool, layout);
    SpreadJob spread{};
    spread.grid = grid;
    spread.maps = maps.data();
    spread.wide = job.wide;
    spread.height = K;
    spread.coefficients = c.maps() == 2 ? coefficients.data() : nullptr;
    spread.gradient = gradient.memory.data();
    spread.target = gradient.map;
    spread.image_rows = gradient.rows;
    spread.image_columns = gradient.columns;
    for (int64_t chunk = grid.chunks(); chunk-- > 0;) kernels.spread(spread, chunk);
    Doubles pooled(B * C * N), values, full;
    for (int64_t i = 0; i < B * C; ++i)
        for (int64_t k = 0; k < K; ++k)
            for (int64_t n = 0; n < N; ++n)
                pooled[i * N + n] += given[(i / C * K + k) * N + n] *
                                     (c.maps() == 2 ? coefficients[i * K + k] : double(k == i % C)) /
                                     double(c.student_pool * c.student_pool);
    gradient.each([&](int64_t b, int64_t channel, int64_t y, int64_t x, int64_t at) {
        const int64_t row = y / c.student_pool, column = x / c.student_pool;
        const bool inside = row < c.rows && column < c.columns;
        full.push_back(inside ? pooled[(b * C + channel) * N + row * c.columns + column] : 0);
        values.push_back(gradient.memory.read(at));
    });
    expect_near(values, full, c.type, error, "gradient");

    if (c.maps() == 1) return all;
    const AffinityTiledKernels& tiled = FAMKERN_TABLE(affinity_tiled_kernels, isa);
    const int64_t tiles = (N + kTile - 1) / kTile, each = (tiles + 1) / 2;
    const Memory slope(wide, B * K * N);
    Doubles sums(B * each), scale(B, 1), totals(B), wanted_sums, wanted_slope;
    TiledJob l1{B, K, N, maps.data(), job.wide, sums.data(), scale.data(), slope.data()};
    for (int64_t chunk = B * each; chunk-- > 0;) tiled.sum(l1, chunk);
    for (int64_t chunk = B * tiles; chunk-- > 0;) tiled.gradient(l1, chunk);
    for (int64_t i = 0; i < B * each; ++i) totals[i / each] += sums[i];
    expected_l1(c, given, wanted_sums, wanted_slope);
    expect_near(totals, wanted_sums, Type::float64, 10 * error, "sum of absolute differences");
    // Of unit vectors the differences on the diagonal are zero but for rounding, and so have any sign.
    const Doubles slopes = slope.all();
    expect_near(slopes, c.normalize ? slopes : wanted_slope, wide, 10 * error, "gradient of that sum");
    return all;
}

}  // namespace

void test_affinity() {
    // One position, lines, no teacher, more columns than a tile has, more positions than a tile, left-over pixels.
    const Case cases[] = {
        {1, 3, 3, 4, 5, 8, 4, 0, {}, {}},   {1, 1, 1, 1, 1, 1, 1, 0, {}, {}},   {2, 5, 3, 1, 13, 3, 2, 1, {}, {}},
        {2, 0, 7, 17, 1, 1, 5, 3, {}, {}},  {1, 3, 3, 2, 131, 4, 2, 3, {}, {}}, {2, 4, 9, 5, 7, 1, 16, 15, {}, {}},
        {1, 33, 18, 5, 6, 2, 3, 2, {}, {}},
    };
    uint64_t digest = 14695981039346656037u;  // FNV-1a
    for (Case c : cases)
        for (Type type : kTypes)
            for (bool normalize : {false, true}) {
                c.type = type;
                c.normalize = normalize;
                const Doubles first = check(c, Layout::contiguous, InstructionSet::portable);
                for (InstructionSet isa : instruction_sets())
                    for (Layout layout : kLayouts)
                        expect(check(c, layout, isa) == first, name_of(isa) + ": affinity, " + c.name() +
                                                                   ": same bits, layout " +
                                                                   std::to_string(int(layout)));
                for (double value : first) {
                    uint64_t bits;
                    std::memcpy(&bits, &value, sizeof bits);
                    digest = (digest ^ bits) * 1099511628211u;
                }
            }
    // Of all results, so that processors are compared too. It changes with the cases, and with the order of any sum.
    expect(digest == 0xb7260edcf9228363, "affinity: the same bits on every processor");
}

}  // namespace test
}  // namespace famkern
