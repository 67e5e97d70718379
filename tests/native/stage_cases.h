// A stage with random weights and maps, what the formulas give for it, and what a run gives. The contracts are in
// famkern/ops/kinds, these tests' twins in tests/ops/test_stages.py.
#pragma once

#include <functional>

#include "cpu/stage.h"
#include "maps.h"

namespace famkern::test {

struct Stage {
    StageKind kind;
    const char* name;
    int convolutions, maps;  // maps that it reads
    bool picture, writes_x;
    int outputs;   // of convolutions
    int head = 0;  // channels from which the last convolution makes the output picture
};
constexpr Stage kStages[] = {
    {StageKind::head, "head", 2, 0, true, true, 1},
    {StageKind::block, "block", 2, 2, false, true, 1},
    {StageKind::group, "group", 3, 3, false, false, 2},
    {StageKind::last_group, "last_group", 1, 3, false, false, 1},
    {StageKind::tail, "tail", 2, 3, true, false, 1, 3},
    {StageKind::down, "down", 2, 0, false, true, 1},
    {StageKind::up, "up", 2, 1, false, true, 1},
    {StageKind::u_tail, "u_tail with a gain", 2, 3, true, false, 1, 4},
    {StageKind::u_tail, "plain u_tail", 2, 3, true, false, 1, 3},
};
constexpr Type kStorages[] = {Type::float32, Type::float16, Type::bfloat16};

inline Storage storage_of(Type type) {
    return type == Type::float32 ? Storage::float32 : type == Type::float16 ? Storage::float16 : Storage::bfloat16;
}

// ---- a case and its formulas ---------------------------------------------------------------------------------------

struct Case {  // random weights and maps of a stage
    const Stage& stage;
    int channels;
    int64_t cell, corner_rows, corner_columns;  // of the gate
    Array picture;
    std::vector<Array> maps;
    Array other;  // of another level: down, up
    Floats other_weight, other_bias, other_skip;
    Floats gate, pixel[4], mean = {0.64f, 0.6f, 0.58f}, std = {0.14f, 0.15f, 0.152f};
    std::vector<Layer> layers;       // the head's first one lifts
    Type precision = Type::float64;  // to which expected() rounds after every operation

    Case(const Stage& stage, int channels, int64_t batch, int64_t rows, int64_t width, int64_t cell = INT32_MAX)
        : stage(stage),
          channels(channels),
          cell(cell),
          corner_rows(corners_along(rows)),
          corner_columns(corners_along(width)),
          picture(batch, rows, width, 3),
          other(batch, there(rows), there(width), down() ? std::max(16, channels / 2) : std::min(64, 2 * channels)) {
        Random random(uint64_t(rows * 1000 + width));
        picture.fill([&] { return random.uniform(); });
        for (int m = 0; m < stage.maps; ++m) maps.push_back(Array(batch, rows, width, channels).fill(random));
        for (int64_t i = 0; i < batch * corner_rows * corner_columns * gates(); ++i)
            gate.push_back(float(random.uniform()));
        const int hidden = channels / 8;
        pixel[0] = random.floats(hidden * channels, 1 / std::sqrt(double(channels)));
        pixel[1] = random.floats(hidden);
        pixel[2] = random.floats(hidden);
        pixel[3] = random.floats(1);
        if (head()) layers.emplace_back(3, channels, random);
        for (int i = 0; i < stage.convolutions; ++i)
            layers.emplace_back(channels, stage.head && i == 1 ? stage.head : channels, random);
        const int64_t products = 4 * channels * other.channels;
        other.fill(random);
        other_weight = random.floats(products, 1 / std::sqrt(double(other.channels) * (down() ? 4 : 1)));
        other_bias = random.floats(4 * channels);
        other_skip = random.floats(channels * channels, 1 / std::sqrt(double(channels)));
    }

    bool head() const { return stage.kind == StageKind::head; }
    bool tail() const { return stage.kind == StageKind::tail; }
    bool down() const { return stage.kind == StageKind::down; }
    bool up() const { return stage.kind == StageKind::up; }
    bool gated() const { return !head() && !down() && !up(); }
    // So many rows or columns here are so many there: twice, or one less for every other length; or half.
    int64_t there(int64_t length) const { return down() ? 2 * length - length % 2 : (length + 1) / 2; }
    int64_t gates() const { return channels * (tail() ? stage.maps : 1); }
    int64_t corners_along(int64_t length) const { return length <= cell ? 1 : (length + cell - 1) / cell + 1; }
    int64_t halo() const { return 1 + 4 * (stage.convolutions - 1); }
    Array stored(Array a) const {
        for (double& value : a.values) value = rounded(value, precision);
        return a;
    }
    std::string name(InstructionSet isa, Type storage) const {
        return name_of(isa) + ": " + stage.name + ", " + std::to_string(channels) + " channels, " +
               kTypeNames[int(storage)] + ", " + std::to_string(picture.batch) + " x " + std::to_string(picture.rows) +
               " x " + std::to_string(picture.width);
    }
};

struct Results {
    std::vector<Array> maps, sums;
    double magnitude = 1;  // of what a picture is made of before it is clamped
    bool operator==(const Results& other) const { return maps == other.maps && sums == other.sums; }
};

// Map `index` with every channel times its gate, which is linear between the corners of cells.
inline Array gated(const Case& c, int64_t index) {
    Array a = c.maps[index];
    const int64_t first = c.tail() ? index * a.channels : 0;
    const auto at = [&](int64_t image, int64_t row, int64_t column, int64_t channel) {
        const int64_t corner = (image * c.corner_rows + row) * c.corner_columns + column;
        return double(c.gate[corner * c.gates() + first + channel]);
    };
    for (int64_t i = 0; i < int64_t(a.values.size()); ++i) {
        const int64_t channel = i % a.channels, x = i % a.row() / a.channels, y = i / a.row() % a.rows;
        const int64_t image = i / (a.row() * a.rows);
        const bool down = c.corner_rows > 1, right = c.corner_columns > 1;
        const int64_t row = down ? y / c.cell : 0, column = right ? x / c.cell : 0;
        const double v = down ? double(y % c.cell) / double(c.cell) : 0;
        const double u = right ? double(x % c.cell) / double(c.cell) : 0;
        const double left = (1 - v) * at(image, row, column, channel) + v * at(image, row + down, column, channel);
        const double other =
            (1 - v) * at(image, row, column + right, channel) + v * at(image, row + down, column + right, channel);
        a.values[i] *= (1 - u) * left + u * other;
    }
    return c.stored(a);
}

// p sigmoid(W2 relu(W1 p + b1) + b2) for every pixel p
inline Array attention(Array a, const Case& c) {
    for (double* p = a.values.data(); p < a.values.data() + a.values.size(); p += a.channels) {
        double logit = c.pixel[3][0];
        for (size_t u = 0; u < c.pixel[1].size(); ++u) {
            double hidden = c.pixel[1][u];
            for (int64_t k = 0; k < a.channels; ++k) hidden += c.pixel[0][u * a.channels + k] * p[k];
            logit += c.pixel[2][u] * std::max(rounded(hidden, c.precision), 0.0);
        }
        const double weight = rounded(sigmoid(rounded(logit, c.precision)), c.precision);
        for (int64_t k = 0; k < a.channels; ++k) p[k] *= weight;
    }
    return c.stored(a);
}

inline Array normalised(const Case& c) {
    Array a = c.picture;
    for (size_t i = 0; i < a.values.size(); ++i) a.values[i] = (a.values[i] - c.mean[i % 3]) / c.std[i % 3];
    return c.stored(a);
}

inline Array row_sums(const Array& a, int64_t cell) {  // (batch, rows, cells, channels)
    Array sums(a.batch, a.rows, (a.width + cell - 1) / cell, a.channels, 0);
    for (int64_t i = 0; i < int64_t(a.values.size()); ++i)
        sums.values[i / a.row() * sums.row() + i % a.row() / a.channels / cell * a.channels + i % a.channels] +=
            a.values[i];
    return sums;
}

// conv2(relu(conv1(x)) + x)
inline Array block(const Case& c, const Array& x, const Layer& conv1, const Layer& conv2) {
    return c.stored(convolve(c.stored(sum(relu(c.stored(convolve(x, conv1))), x)), conv2));
}

// What leads over from the map of another level, and for `up` from the skip: (batch, rows, width, C).
inline Array crossed(const Case& c) {
    const Array& in = c.other;
    Array x(c.picture.batch, c.picture.rows, c.picture.width, c.channels, 0);
    for (int64_t image = 0; image < x.batch; ++image)
        for (int64_t y = 0; y < x.rows; ++y)
            for (int64_t column = 0; column < x.width; ++column) {
                double* out = &x.values[x.place(image, y, column)];
                const int64_t pixel = 2 * (y % 2) + column % 2;
                for (int64_t o = 0; o < c.channels; ++o) out[o] = c.other_bias[c.down() ? o : pixel * c.channels + o];
                for (int64_t tap = 0; c.down() && tap < 4; ++tap) {
                    const int64_t r = 2 * y + tap / 2, s = 2 * column + tap % 2;
                    if (r >= in.rows || s >= in.width) continue;
                    for (int64_t o = 0; o < c.channels; ++o)
                        for (int64_t k = 0; k < in.channels; ++k)
                            out[o] +=
                                in.values[in.place(image, r, s) + k] * c.other_weight[(o * in.channels + k) * 4 + tap];
                }
                for (int64_t o = 0; c.up() && o < c.channels; ++o) {
                    for (int64_t k = 0; k < in.channels; ++k)
                        out[o] += in.values[in.place(image, y / 2, column / 2) + k] *
                                  c.other_weight[(pixel * c.channels + o) * in.channels + k];
                    for (int64_t k = 0; k < c.channels; ++k)
                        out[o] +=
                            c.maps[0].values[c.maps[0].place(image, y, column) + k] * c.other_skip[o * c.channels + k];
                }
            }
    return x;
}

// The picture of the last convolution's channels `o` and the normalised picture.
inline Results finished(const Case& c, const Array& o) {
    const Array p = normalised(c);
    Array y = p;
    for (size_t i = 0; i < y.values.size(); ++i) {
        const double* at = &o.values[i / 3 * size_t(o.channels)];
        const double v = o.channels == 4 ? at[0] * p.values[i] - at[i % 3 + 1] + p.values[i] : at[i % 3] + p.values[i];
        y.values[i] = std::min(std::max(rounded(v, c.precision), 0.0), 1.0);
    }
    return {{y}, {}, o.channels == 4 ? largest(o.values) * largest(p.values) : 1};
}

inline Results expected(const Case& c) {
    Results results;
    if (c.tail()) {
        Array o = gated(c, 0);
        for (int m = 1; m < c.stage.maps; ++m) o = c.stored(sum(o, gated(c, m)));
        const Array lifted = c.stored(convolve(attention(o, c), c.layers[0]));
        return finished(c, c.stored(convolve(lifted, c.layers[1])));
    }
    Array x = c.stored(c.head()    ? convolve(normalised(c), c.layers[0])
                       : c.gated() ? sum(attention(gated(c, 1), c), c.maps[0])
                                   : crossed(c));
    if (c.stage.maps == 3) x = c.stored(sum(c.stored(convolve(x, c.layers[0])), c.maps[2]));  // the end of a group
    if (c.stage.head) return finished(c, c.stored(convolve(x, c.layers[1])));
    results.maps = {x};
    const size_t next = c.head() || c.stage.maps == 3;
    if (c.layers.size() > next) results.maps.push_back(block(c, x, c.layers[next], c.layers[next + 1]));
    for (size_t i = c.stage.writes_x; i < results.maps.size(); ++i)
        results.sums.push_back(row_sums(results.maps[i], c.cell));
    return results;
}

// ---- running -------------------------------------------------------------------------------------------------------

using Run = std::function<void(const StageCall&)>;

// The results of a stage run on bands of so many rows.
inline Results computed(const Case& c, Type storage, int64_t band, int64_t halo, const Run& run) {
    const int64_t batch = c.picture.batch, rows = c.picture.rows, width = c.picture.width;
    const Type written = c.stage.head ? Type::float32 : storage;
    Results results;
    results.maps.assign(c.stage.writes_x + c.stage.outputs, Array(batch, rows, width, c.stage.head ? 3 : c.channels));
    const int64_t cells = (width + c.cell - 1) / c.cell;
    results.sums.assign(c.stage.head ? 0 : c.stage.outputs, Array(batch, rows, cells, c.channels));
    for (int64_t start = 0; start < rows; start += band) {
        const int64_t stop = std::min(start + band, rows);
        StageCall call{};
        call.kind = c.stage.kind;
        call.storage = storage_of(storage);
        call.channels = c.channels;
        call.batch = batch;
        call.rows = stop - start;
        call.width = width;
        call.top = std::min(halo, start);
        call.bottom = std::min(halo, rows - stop);
        call.cell = c.cell;
        call.first_row = start - call.top;

        std::vector<Memory> inputs, outputs, sums;
        std::vector<Map> maps;
        const int64_t first = start - call.top, end = stop + call.bottom;
        const auto input = [&](const Array& array, Type type, int64_t first, int64_t end) {
            inputs.push_back(array.store(type, first, end));
            return Map{inputs.back().data(), (end - first) * array.row()};
        };
        if (c.stage.picture) {
            call.image = input(c.picture, Type::float32, first, end);
            call.mean = c.mean.data();
            call.std = c.std.data();
        }
        for (const Array& map : c.maps) maps.push_back(input(map, storage, first, end));
        call.maps = maps.data();
        call.map_count = c.stage.maps;
        if (c.down() || c.up()) {
            const int64_t from = c.down() ? 2 * first : first / 2;
            const int64_t to = c.down() ? std::min(2 * end, c.other.rows) : (end + 1) / 2;
            call.crossing = {input(c.other, storage, from, to),
                             to - from,
                             c.other.width,
                             int(c.other.channels),
                             c.other_weight.data(),
                             c.other_bias.data(),
                             c.other_skip.data()};
        }
        if (c.gated()) {
            call.gate = c.gate.data();
            call.gate_rows = c.corner_rows;
            call.gate_columns = c.corner_columns;
            for (int i = 0; i < 4; ++i) call.pixel[i] = c.pixel[i].data();
        }
        for (const Layer& layer : c.layers)
            (layer.inputs == 3 ? call.lift : call.convolution[call.convolutions++]) = {
                layer.weight.data(), layer.bias.data(), layer.inputs, layer.outputs};
        for (const Array& map : results.maps) {
            const int64_t stride = call.rows * map.row();
            outputs.emplace_back(written, batch * stride);
            const int index = int(outputs.size()) - 1 - c.stage.writes_x;
            (index < 0 ? call.out_x : call.out[index]) = {outputs.back().data(), stride};
        }
        for (size_t i = 0; i < results.sums.size(); ++i) {
            sums.emplace_back(Type::float64, batch * call.rows * cells * c.channels);
            call.sums[i] = sums.back().data<double>();
        }
        run(call);
        for (size_t i = 0; i < outputs.size(); ++i) results.maps[i].load(outputs[i], start, stop);
        for (size_t i = 0; i < sums.size(); ++i) results.sums[i].load(sums[i], start, stop);
    }
    return results;
}

}  // namespace famkern::test
