// Channels-last maps in double, and what the formulas of several kernels are made of, written out directly.
#pragma once

#include <algorithm>
#include <cmath>

#include "check.h"

namespace famkern::test {

struct Array {  // (batch, rows, width, channels)
    int64_t batch, rows, width, channels;
    Doubles values;

    Array(int64_t batch, int64_t rows, int64_t width, int64_t channels, double value = NAN)
        : batch(batch), rows(rows), width(width), channels(channels), values(batch * rows * width * channels, value) {}

    template <class Number>
    Array& fill(Number&& number) {  // with float32 numbers
        for (double& value : values) value = rounded(number(), Type::float32);
        return *this;
    }
    int64_t row() const { return width * channels; }
    int64_t place(int64_t image, int64_t y, int64_t x) const { return ((image * rows + y) * width + x) * channels; }
    bool operator==(const Array& other) const { return values == other.values; }  // never true of a NaN

    // Rows `first` to `end` of every image, as they lie in memory.
    Memory store(Type type, int64_t first, int64_t end) const {
        Memory memory(type, batch * (end - first) * row());
        for (int64_t image = 0, to = 0; image < batch; ++image)
            for (int64_t i = place(image, first, 0); i < place(image, end, 0); ++i) memory.write(to++, values[i]);
        return memory;
    }
    void load(const Memory& memory, int64_t first, int64_t end) {
        for (int64_t image = 0, from = 0; image < batch; ++image)
            for (int64_t i = place(image, first, 0); i < place(image, end, 0); ++i) values[i] = memory.read(from++);
    }
    Memory store() const { return store(Type::float32, 0, rows); }
};

struct Layer {  // weight (outputs, inputs, 3, 3), bias (outputs,)
    int inputs, outputs;
    Floats weight, bias;

    Layer(int inputs, int outputs, Random& random)
        : inputs(inputs),
          outputs(outputs),
          weight(random.floats(9 * inputs * outputs, 1 / std::sqrt(9.0 * inputs))),
          bias(random.floats(outputs)) {}
};

inline Array convolve(const Array& x, const Layer& layer) {
    Array y(x.batch, x.rows, x.width, layer.outputs);
    Doubles weight(layer.weight.size());  // [tap][input][output]
    for (int o = 0; o < layer.outputs; ++o)
        for (int i = 0; i < layer.inputs; ++i)
            for (int tap = 0; tap < 9; ++tap)
                weight[(tap * layer.inputs + i) * layer.outputs + o] = layer.weight[(o * layer.inputs + i) * 9 + tap];
    for (int64_t image = 0; image < x.batch; ++image)
        for (int64_t row = 0; row < x.rows; ++row)
            for (int64_t column = 0; column < x.width; ++column) {
                double* out = &y.values[y.place(image, row, column)];
                std::copy(layer.bias.begin(), layer.bias.end(), out);
                for (int tap = 0; tap < 9; ++tap) {
                    const int64_t r = row + tap / 3 - 1, c = column + tap % 3 - 1;
                    if (r < 0 || r >= x.rows || c < 0 || c >= x.width) continue;
                    const double *in = &x.values[x.place(image, r, c)],
                                 *w = &weight[tap * layer.inputs * layer.outputs];
                    for (int i = 0; i < layer.inputs; ++i)
                        for (int o = 0; o < layer.outputs; ++o) out[o] += in[i] * *w++;
                }
            }
    return y;
}

inline Array sum(Array a, const Array& b) {
    for (size_t i = 0; i < a.values.size(); ++i) a.values[i] += b.values[i];
    return a;
}

inline Array relu(Array a) {
    for (double& value : a.values) value = std::max(value, 0.0);
    return a;
}

inline double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

inline double largest(const Doubles& values) {  // or 1
    double most = 1;
    for (double value : values) most = std::max(most, std::abs(value));
    return most;
}

inline bool near(const Doubles& values, const Doubles& wanted, double bound) {
    bool near = values.size() == wanted.size();
    for (size_t i = 0; near && i < values.size(); ++i) near = std::abs(values[i] - wanted[i]) <= bound;
    return near;
}

}  // namespace famkern::test
