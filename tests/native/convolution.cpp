// The operators of training and their gradients compute what the formulas say, whatever the size and the cut into
// tasks. The contracts are in famkern/ops/{conv,gate}.py, these tests' twins in tests/ops/test_conv.py.
#include "cpu/convolution.h"

#include "maps.h"

namespace famkern {

FAMKERN_KERNELS(ConvolutionKernels, convolution_kernels)
FAMKERN_KERNELS(GateKernels, gate_kernels)

namespace test {
namespace {

constexpr double kError = 1e-5;  // beside the largest value

// `tasks` runs of partial sums, added up in groups of `per`.
Doubles add_tasks(const Doubles& sums, int64_t per, int64_t width) {
    Doubles total(int64_t(sums.size()) / per);
    for (int64_t i = 0; i < int64_t(sums.size()); ++i) total[i / width / per * width + i % width] += sums[i];
    return total;
}

struct Case {
    Rows rows;
    std::string name;

    Array map() const { return Array(rows.batch, rows.height, rows.width, rows.channels); }
    Array array(const Memory& memory) const {
        Array map = this->map();
        map.load(memory, 0, rows.height);
        return map;
    }
    void expect_near(const Doubles& values, const Doubles& wanted, const char* what) const {
        expect(near(values, wanted, kError * largest(wanted)), name + what);
    }
};

// ---- convolution ---------------------------------------------------------------------------------------------------

// dw of g = conv(x) by definition: (C, C, 3, 3).
Doubles weight_gradient(const Array& x, const Array& g) {
    const int64_t C = x.channels;
    Doubles products(9 * C * C), gradient(9 * C * C);  // [tap][input][output]
    for (int64_t image = 0; image < x.batch; ++image)
        for (int64_t row = 0; row < x.rows; ++row)
            for (int64_t column = 0; column < x.width; ++column)
                for (int tap = 0; tap < 9; ++tap) {
                    const int64_t r = row + tap / 3 - 1, c = column + tap % 3 - 1;
                    if (r < 0 || r >= x.rows || c < 0 || c >= x.width) continue;
                    const double *in = &x.values[x.place(image, r, c)], *out = &g.values[g.place(image, row, column)];
                    double* product = &products[tap * C * C];
                    for (int64_t k = 0; k < C; ++k)
                        for (int64_t o = 0; o < C; ++o) *product++ += in[k] * out[o];
                }
    for (int64_t i = 0; i < 9 * C * C; ++i) gradient[(i % C * C + i / C % C) * 9 + i / (C * C)] = products[i];
    return gradient;
}

// The same from sums over tiles of products of transforms, [6][6][input][output]: G^T products G.
Doubles weight_gradient(const Doubles& products, int64_t C) {
    constexpr double G[6][3] = {{1. / 4, 0, 0},
                                {-1. / 6, -1. / 6, -1. / 6},
                                {-1. / 6, 1. / 6, -1. / 6},
                                {1. / 24, 1. / 12, 1. / 6},
                                {1. / 24, -1. / 12, 1. / 6},
                                {0, 0, 1}};
    Doubles gradient(9 * C * C);
    for (int64_t i = 0; i < 36 * C * C; ++i)
        for (int tap = 0; tap < 9; ++tap) {
            const int64_t frequency = i / (C * C);
            gradient[(i % C * C + i / C % C) * 9 + tap] +=
                G[frequency / 6][tap / 3] * G[frequency % 6][tap % 3] * products[i];
        }
    return gradient;
}

void test_convolution(const Case& c, InstructionSet isa, bool residual) {
    const ConvolutionKernels& kernels = FAMKERN_TABLE(convolution_kernels, isa);
    const int C = c.rows.channels;
    const int64_t tasks = c.rows.tasks();
    Random random(uint64_t(c.rows.height * 1000 + c.rows.width));
    const Array x = c.map().fill(random), gradient = c.map().fill(random);
    const Floats offset = random.floats(c.rows.batch * C);
    const Layer layer(C, C, random);
    Layer adjoint = layer;
    for (int i = 0; i < C * C * 9; ++i) adjoint.weight[(i / 9 % C * C + i / 9 / C) * 9 + 8 - i % 9] = layer.weight[i];
    std::fill(adjoint.bias.begin(), adjoint.bias.end(), 0.0f);

    const Memory x_stored = x.store(), y_stored = c.map().store(), gradient_stored = gradient.store();
    const Memory packed(Type::float32, kernels.packed_floats(C));
    ConvolutionJob job{};
    job.rows = c.rows;
    job.residual = residual;
    job.packed = packed.data<float>();
    job.bias = layer.bias.data();
    job.x = x_stored.data<float>();
    job.out = y_stored.data<float>();
    const auto run = [&](auto kernel, const Layer& layer) {  // every task in memory that nothing was written to before
        kernels.pack(layer.weight.data(), C, packed.data<float>());
        Doubles sums(tasks * C);
        job.sums = sums.data();
        for (int64_t task = tasks; task-- > 0;)
            kernel(job, task, Memory(Type::float32, kernels.scratch_floats(c.rows)).data<float>());
        return sums;
    };
    Doubles sums = run(kernels.forward, layer);
    const Array y = c.array(y_stored), wanted = residual ? sum(relu(convolve(x, layer)), x) : convolve(x, layer);
    c.expect_near(y.values, wanted.values, ": output");
    Doubles image_sums(c.rows.batch * C);
    for (int64_t i = 0; i < int64_t(wanted.values.size()); ++i)
        image_sums[i / (wanted.rows * wanted.row()) * C + i % C] += wanted.values[i];
    c.expect_near(add_tasks(sums, c.rows.tasks_each(), C), image_sums, ": sums");

    const Memory out_stored = c.map().store(), products(Type::float32, tasks * 36 * C * C);
    job.y = residual ? y_stored.data<float>() : nullptr;
    job.gradient = gradient_stored.data<float>();
    job.offset = offset.data();
    job.out = out_stored.data<float>();
    job.products = products.data<float>();
    sums = run(kernels.backward, adjoint);
    Array of_y = gradient, g = gradient;  // the gradients of y and of conv(x) + bias
    Doubles bias_gradient(C);
    for (int64_t i = 0; i < int64_t(g.values.size()); ++i) {
        of_y.values[i] += offset[i / (g.rows * g.row()) * C + i % C];
        g.values[i] = residual && y.values[i] == x.values[i] ? 0 : of_y.values[i];
        bias_gradient[i % C] += g.values[i];
    }
    const Array of_x = residual ? sum(convolve(g, adjoint), of_y) : convolve(g, adjoint);
    c.expect_near(c.array(out_stored).values, of_x.values, ": input gradient");
    c.expect_near(add_tasks(sums, tasks, C), bias_gradient, ": bias gradient");
    c.expect_near(weight_gradient(add_tasks(products.all(), tasks, 36 * C * C), C), weight_gradient(x, g),
                  ": weight gradient");
}

// ---- gate ----------------------------------------------------------------------------------------------------------

void test_gate(const Case& c, InstructionSet isa) {
    const GateKernels& kernels = FAMKERN_TABLE(gate_kernels, isa);
    const int C = c.rows.channels, hidden = C / 8;
    Random random(uint64_t(c.rows.height * 1000 + c.rows.width));
    const Array x = c.map().fill(random), z = c.map().fill(random), d = c.map().fill(random);
    const Floats gate = random.floats(c.rows.batch * C), w1 = random.floats(hidden * C, 1 / std::sqrt(double(C))),
                 b1 = random.floats(hidden), w2 = random.floats(hidden), b2 = random.floats(1);

    // u = z gate, a = relu(w1 u + b1), weight = sigmoid(w2 a + b2), out = u weight + x, and the way back from d
    Array out = x, of_z = c.map();
    const int64_t width = gate_sums(C);
    Doubles of_rest(c.rows.batch * width);  // per image: gradients of gate, w1, b1, w2, b2
    for (int64_t p = 0; p < int64_t(z.values.size()); p += C) {
        const int64_t image = p / (z.rows * z.row());
        const float* g = &gate[image * C];
        double *of_gate = &of_rest[image * width], *of_w1 = of_gate + C, *of_b1 = of_w1 + hidden * C,
               *of_w2 = of_b1 + hidden, *of_b2 = of_w2 + hidden;
        double logit = b2[0], slope = 0;
        Doubles a(hidden), u(C), of_u(C);
        for (int k = 0; k < C; ++k) u[k] = z.values[p + k] * g[k];
        for (int h = 0; h < hidden; ++h) {
            a[h] = b1[h];
            for (int k = 0; k < C; ++k) a[h] += w1[h * C + k] * u[k];
            logit += w2[h] * std::max(a[h], 0.0);
        }
        const double weight = sigmoid(logit);
        for (int k = 0; k < C; ++k) {
            out.values[p + k] += u[k] * weight;
            slope += d.values[p + k] * u[k] * weight * (1 - weight);
            of_u[k] = d.values[p + k] * weight;
        }
        *of_b2 += slope;
        for (int h = 0; h < hidden; ++h) {
            of_w2[h] += slope * std::max(a[h], 0.0);
            const double of_a = a[h] > 0 ? slope * w2[h] : 0;
            of_b1[h] += of_a;
            for (int k = 0; k < C; ++k) {
                of_w1[h * C + k] += of_a * u[k];
                of_u[k] += of_a * w1[h * C + k];
            }
        }
        for (int k = 0; k < C; ++k) {
            of_z.values[p + k] = of_u[k] * g[k];
            of_gate[k] += of_u[k] * z.values[p + k];
        }
    }

    const Memory x_stored = x.store(), z_stored = z.store(), d_stored = d.store();
    const Memory out_stored = c.map().store(), of_z_stored = c.map().store();
    GateJob job{};
    job.rows = c.rows;
    job.x = x_stored.data<float>();
    job.z = z_stored.data<float>();
    job.gate = gate.data();
    const float* const pixel[] = {w1.data(), b1.data(), w2.data(), b2.data()};
    std::copy(pixel, pixel + 4, job.pixel);
    job.out = out_stored.data<float>();
    for (int64_t task = c.rows.tasks(); task-- > 0;) kernels.forward(job, task);
    c.expect_near(c.array(out_stored).values, out.values, ": gate");

    Doubles sums(c.rows.tasks() * width);
    job.gradient = d_stored.data<float>();
    job.out = of_z_stored.data<float>();
    job.sums = sums.data();
    for (int64_t task = c.rows.tasks(); task-- > 0;) kernels.backward(job, task);
    c.expect_near(c.array(of_z_stored).values, of_z.values, ": gradient of the gated map");
    c.expect_near(add_tasks(sums, c.rows.tasks_each(), width), of_rest, ": gradients of the gate's weights");
}

}  // namespace

void test_convolution() {
    // One pixel, lines, less than a tile, tiles and one more, primes, more than one run of tiles, several tasks.
    const Rows sizes[] = {{1, 1, 1, 0, 4}, {2, 1, 19, 0, 4}, {1, 23, 1, 0, 8},
                          {1, 3, 2, 0, 4}, {2, 5, 9, 0, 4},  {1, 7, 97, 0, 4}};
    for (const Rows& size : sizes)
        for (int channels : {16, 32, 64})
            for (InstructionSet isa : instruction_sets()) {
                if (left_out(int(&size - sizes), channels / 32, 3)) continue;
                Rows rows = size;
                rows.channels = channels;
                const Case c{rows, name_of(isa) + ": convolution, " + std::to_string(channels) + " channels, " +
                                       std::to_string(rows.batch) + " x " + std::to_string(rows.height) + " x " +
                                       std::to_string(rows.width)};
                for (bool residual : {false, true}) test_convolution(c, isa, residual);
                test_gate(c, isa);
            }
}

}  // namespace test
}  // namespace famkern
