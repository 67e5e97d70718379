// The operators of reduced scale against their definition, written out in float64; the same bits on all instruction
// sets.
#include "cpu/scale.h"

#include <algorithm>
#include <cmath>

#include "check.h"

namespace famkern {

FAMKERN_KERNELS(ScaleKernels, scale_kernels)

namespace test {
namespace {

constexpr const char* kDepthNames[] = {"uint8", "uint16", "float32", "float64"};
constexpr int64_t kBytes[] = {1, 2, 4, 8};
constexpr double kFull[] = {255, 65535, 1, 1};

int64_t index_of(Depth depth) { return int64_t(depth); }

struct Stored {  // a picture of random numbers
    int64_t height, width;
    Depth depth;
    bool planar;
    std::vector<char> bytes;

    Stored(int64_t height, int64_t width, Depth depth, bool planar)
        : height(height),
          width(width),
          depth(depth),
          planar(planar),
          bytes(size_t(height * width * 3 * kBytes[index_of(depth)]), char(0xff)) {}

    void fill(Random& random) {
        for (int64_t i = 0; i < height * width * 3; ++i)
            write(i, std::round(random.uniform() * kFull[index_of(depth)]));
        if (kFull[index_of(depth)] == 1)
            for (int64_t i = 0; i < height * width * 3; ++i) write(i, random.uniform());
    }
    template <class T>
    void put(int64_t i, double value) {
        const T number = T(value);
        std::memcpy(&bytes[size_t(i) * sizeof number], &number, sizeof number);
    }
    template <class T>
    double get(int64_t i) const {
        T number;
        std::memcpy(&number, &bytes[size_t(i) * sizeof number], sizeof number);
        return double(number);
    }
    void write(int64_t i, double value) {
        depth == Depth::uint8     ? put<uint8_t>(i, value)
        : depth == Depth::uint16  ? put<uint16_t>(i, value)
        : depth == Depth::float32 ? put<float>(i, value)
                                  : put<double>(i, value);
    }
    double at(int64_t y, int64_t x, int64_t c) const {  // in [0, 1]
        const int64_t i = planar ? (c * height + y) * width + x : (y * width + x) * 3 + c;
        return (depth == Depth::uint8     ? get<uint8_t>(i)
                : depth == Depth::uint16  ? get<uint16_t>(i)
                : depth == Depth::float32 ? get<float>(i)
                                          : get<double>(i)) /
               kFull[index_of(depth)];
    }
    Picture rows(int64_t first, int64_t end) {
        const int64_t row = planar ? width : 3 * width;
        return {bytes.data() + first * row * kBytes[index_of(depth)],
                depth,
                end - first,
                width,
                {row, planar ? 1 : 3, planar ? height * width : 1}};
    }
};

Type type_of(bool wide) { return wide ? Type::float64 : Type::float32; }

template <class Call>
void run(void (*kernel)(const Call&, int64_t, void*),
         const Call& call) {  // every task in memory that was not written to
    for (int64_t task = call.tasks(); task-- > 0;)
        kernel(call, task, Memory(Type::float64, (call.scratch_bytes() + 7) / 8).data());
}

double largest_error(const Doubles& values, const Doubles& wanted) {
    double most = values.size() == wanted.size() ? 0 : INFINITY;
    for (size_t i = 0; i < wanted.size() && most < INFINITY; ++i) {
        const double error = std::abs(values[i] - wanted[i]);
        most = error <= most ? most : std::isnan(error) ? INFINITY : error;
    }
    return most;
}

struct Case {
    int64_t height, width, scale;
    bool wide;
    int64_t rows() const { return (height + scale - 1) / scale; }
    int64_t columns() const { return (width + scale - 1) / scale; }
    double limit() const { return wide ? 1e-12 : 1e-6; }
    std::string name() const {
        return std::to_string(height) + " x " + std::to_string(width) + " by " + std::to_string(scale) +
               (wide ? ", float64" : ", float32");
    }
};

Doubles reduced(const Stored& image, const Case& c) {
    Doubles out;
    for (int64_t i = 0; i < c.rows(); ++i)
        for (int64_t j = 0; j < c.columns(); ++j)
            for (int64_t channel = 0; channel < 3; ++channel) {
                double sum = 0, weights = 0;
                for (int64_t y = 0; y < c.height; ++y)
                    for (int64_t x = 0; x < c.width; ++x) {
                        const double k = double(c.scale);
                        const double w = std::max(0.0, 1 - std::abs(double(y) - ((double(i) + 0.5) * k - 0.5)) / k) *
                                         std::max(0.0, 1 - std::abs(double(x) - ((double(j) + 0.5) * k - 0.5)) / k);
                        sum += w * image.at(y, x, channel), weights += w;
                    }
                out.push_back(std::clamp(sum / weights, 0.0, 1.0));
            }
    return out;
}

Doubles means(const Doubles& values, const Doubles& weights, const Case& c) {  // over windows
    Doubles out;
    for (int64_t i = 0; i < c.rows(); ++i)
        for (int64_t j = 0; j < c.columns(); ++j)
            for (int64_t channel = 0; channel < 3; ++channel) {
                double sum = 0, total = 0;
                for (int64_t y = std::max<int64_t>(i - 8, 0); y <= std::min(i + 8, c.rows() - 1); ++y)
                    for (int64_t x = std::max<int64_t>(j - 8, 0); x <= std::min(j + 8, c.columns() - 1); ++x) {
                        const double w = weights[y * c.columns() + x];
                        sum += w * values[(y * c.columns() + x) * 3 + channel], total += w;
                    }
                out.push_back(sum / total);
            }
    return out;
}

Doubles products(const Doubles& a, const Doubles& b) {
    Doubles out(a.size());
    for (size_t i = 0; i < a.size(); ++i) out[i] = a[i] * b[i];
    return out;
}

double between(const Doubles& map, double y, double x, int64_t channel, const Case& c) {
    y = std::clamp(y, 0.0, double(c.rows() - 1)), x = std::clamp(x, 0.0, double(c.columns() - 1));
    const int64_t i = int64_t(y), j = int64_t(x), below = std::min(i + 1, c.rows() - 1),
                  right = std::min(j + 1, c.columns() - 1);
    const auto at = [&](int64_t i, int64_t j) { return map[(i * c.columns() + j) * 3 + channel]; };
    const double v = y - double(i), u = x - double(j);
    return (1 - v) * ((1 - u) * at(i, j) + u * at(i, right)) + v * ((1 - u) * at(below, j) + u * at(below, right));
}

// All three, one after another, in bands of so many reduced rows; returns what they made.
std::vector<Doubles> run_all(const ScaleKernels& kernels, const Case& c, Stored& image, Stored& out,
                             const Memory& target, const Memory* weights, int64_t band, int64_t threads) {
    const int64_t row = 3 * c.columns() * bytes_of(type_of(c.wide));
    const Memory low(type_of(c.wide), c.rows() * c.columns() * 3), a(type_of(c.wide), c.rows() * c.columns() * 3),
        b(type_of(c.wide), c.rows() * c.columns() * 3);
    for (int64_t start = 0; start < c.rows(); start += band) {
        const int64_t end = std::min(start + band, c.rows());
        ReduceCall call{};
        call.image_row = std::max<int64_t>(start * c.scale - c.scale / 2, 0);
        call.image = image.rows(call.image_row, std::min((end + 1) * c.scale, c.height));
        call.out = low.data<char>() + start * row;
        call.wide = c.wide;
        call.rows = end - start, call.width = c.columns(), call.scale = c.scale, call.row = start;
        run(kernels.reduce, call);
    }
    for (int64_t start = 0; start < c.rows(); start += band) {
        const int64_t end = std::min(start + band, c.rows()), first = std::max<int64_t>(start - 2 * kRadius, 0);
        FitCall call{};
        call.image = low.data<char>() + first * row, call.target = target.data<char>() + first * row;
        if (weights != nullptr) call.weights = weights->data<char>() + first * row / 3;
        call.out[0] = a.data<char>() + start * row, call.out[1] = b.data<char>() + start * row;
        call.wide = c.wide;
        call.input_rows = std::min(end + 2 * kRadius, c.rows()) - first;
        call.rows = end - start, call.top = start - first, call.width = c.columns();
        call.cut(threads);
        run(kernels.fit, call);
    }
    for (int64_t start = 0; start < c.height; start += band * c.scale) {
        const int64_t end = std::min(start + band * c.scale, c.height);
        ApplyCall call{};
        call.image = image.rows(start, end), call.out = out.rows(start, end);
        call.scale = c.scale, call.row = start, call.wide = c.wide, call.strength = 1;
        call.map_row = std::max<int64_t>(start / c.scale - 1, 0);
        call.map_rows = std::min((end - 1) / c.scale + 2, c.rows()) - call.map_row, call.map_width = c.columns();
        call.maps[0] = a.data<char>() + call.map_row * row, call.maps[1] = b.data<char>() + call.map_row * row;
        run(kernels.apply, call);
    }
    Doubles result;
    for (int64_t y = 0; y < c.height; ++y)
        for (int64_t x = 0; x < c.width; ++x)
            for (int64_t channel = 0; channel < 3; ++channel) result.push_back(out.at(y, x, channel));
    return {low.all(), a.all(), b.all(), result};
}

void test(const Case& c, Depth depth, bool planar, bool weighed) {
    Random random(uint64_t(c.height * 1000 + c.width + c.scale));
    Stored image(c.height, c.width, depth, planar), out(c.height, c.width, depth, planar);
    image.fill(random);
    const int64_t count = c.rows() * c.columns();
    Memory target(type_of(c.wide), 3 * count), weights(type_of(c.wide), count);
    for (int64_t i = 0; i < 3 * count; ++i) target.write(i, random.uniform());
    for (int64_t i = 0; i < count; ++i) weights.write(i, weighed ? 0.1 + random.uniform() : 1);
    const std::string name = c.name() + ", " + kDepthNames[index_of(depth)] + (planar ? ", planar" : "");
    std::vector<Doubles> first;
    for (InstructionSet isa : instruction_sets()) {
        const ScaleKernels& kernels = FAMKERN_TABLE(scale_kernels, isa);
        for (int64_t band : {c.rows(), int64_t(1), int64_t(7)}) {
            const std::vector<Doubles> made =
                run_all(kernels, c, image, out, target, weighed ? &weights : nullptr, band, band);
            if (first.empty()) first = made;
            expect(made == first, name_of(isa) + ": the same bits, " + name + ", bands of " + std::to_string(band));
        }
    }
    const double limit = depth == Depth::float64 || c.wide ? c.limit() : 1e-6;
    expect(largest_error(first[0], reduced(image, c)) <= (c.wide ? limit : 1e-6), "reduce, " + name);
    const Doubles &x = first[0], y = target.all(), v = weights.all();
    const Doubles mean = means(x, v, c), mean_y = means(y, v, c), xy = means(products(x, y), v, c),
                  xx = means(products(x, x), v, c);
    Doubles slope(x.size()), offset(x.size());
    for (size_t i = 0; i < x.size(); ++i) {
        const double variance = xx[i] - mean[i] * mean[i];
        slope[i] = variance > kFlat ? (xy[i] - mean[i] * mean_y[i]) / (variance + kEpsilon) : 0;
        offset[i] = mean_y[i] - slope[i] * mean[i];
    }
    expect(largest_error(first[1], means(slope, v, c)) <= (c.wide ? 2e-12 : 1e-6), "fit, slopes, " + name);
    expect(largest_error(first[2], means(offset, v, c)) <= (c.wide ? 2e-12 : 1e-6), "fit, offsets, " + name);
    Doubles wanted;
    const double k = double(c.scale);
    for (int64_t row = 0; row < c.height; ++row)
        for (int64_t column = 0; column < c.width; ++column)
            for (int64_t channel = 0; channel < 3; ++channel) {
                const double at_y = (double(row) + 0.5) / k - 0.5, at_x = (double(column) + 0.5) / k - 0.5;
                wanted.push_back(std::clamp(between(first[1], at_y, at_x, channel, c) * image.at(row, column, channel) +
                                                between(first[2], at_y, at_x, channel, c),
                                            0.0, 1.0));
            }
    const double step = kFull[index_of(depth)] > 1 ? 0.501 / kFull[index_of(depth)] : 0;
    expect(largest_error(first[3], wanted) <= step + (c.wide && depth != Depth::float32 ? 1e-12 : 1e-6),
           "apply, " + name);
}

}  // namespace

void test_scale() {
    const int64_t sizes[][2] = {{1, 1}, {1, 131}, {3, 5}, {7, 4}, {23, 41}};
    for (const auto& size : sizes)
        for (int64_t scale : {1, 2, 3, 8})
            for (bool wide : {false, true})
                for (Depth depth : {Depth::uint8, Depth::uint16, Depth::float32, Depth::float64}) {
                    if (left_out(int(scale) + 2 * wide, index_of(depth), 4)) continue;
                    test({size[0], size[1], scale, wide}, depth, (scale + index_of(depth)) % 2 == 0, scale == 3);
                }
    test({47, 307, 1, false}, Depth::uint8, false, true);  // more than one block of columns
}

}  // namespace test
}  // namespace famkern
