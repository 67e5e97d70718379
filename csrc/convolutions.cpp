// Registers the operators that training needs for the CPU; contracts are in famkern/ops/{conv,gate}.py.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <optional>
#include <tuple>
#include <vector>

#include "cpu/convolution.h"
#include "cpu/dispatch.h"

namespace famkern {

FAMKERN_KERNELS(ConvolutionKernels, convolution_kernels)
FAMKERN_KERNELS(GateKernels, gate_kernels)

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

const float* floats(const Tensor& tensor, std::vector<int64_t> shape, const char* name) {
    bool fits = tensor.is_cpu() && tensor.is_contiguous() && tensor.scalar_type() == ScalarType::Float &&
                tensor.dim() == int64_t(shape.size());
    for (size_t i = 0; fits && i < shape.size(); ++i) fits = tensor.size(i) == shape[i];
    STD_TORCH_CHECK(fits, name, ": contiguous float32 on the CPU, of the shape in the operator's contract, expected");
    return static_cast<const float*>(tensor.const_data_ptr());
}

Rows rows_of(const Tensor& map) {
    STD_TORCH_CHECK(map.dim() == 4, "(B, H, W, C) expected");
    const int64_t C = map.size(3);
    STD_TORCH_CHECK(C == 16 || C == 32 || C == 64, "the compiled operators have 16, 32 or 64 channels, not ", C);
    Rows rows{map.size(0), map.size(1), map.size(2), int(C), 4};
    const int64_t strips = (rows.height + 3) / 4,
                  most = std::max<int64_t>(1, kMostTasks / std::max<int64_t>(1, rows.batch));
    rows.rows_each = 4 * std::max<int64_t>(1, (strips + most - 1) / most);
    return rows;
}

std::vector<int64_t> shape_of(const Rows& rows) { return {rows.batch, rows.height, rows.width, rows.channels}; }

float* data(const Tensor& tensor) { return static_cast<float*>(tensor.mutable_data_ptr()); }

using Floats = std::unique_ptr<float, decltype(&std::free)>;

Floats allocate(int64_t count) {  // on cache lines, not initialised
    void* data = std::aligned_alloc(64, size_t(count * int64_t(sizeof(float)) + 63) / 64 * 64);
    if (data == nullptr) throw std::bad_alloc();
    return {static_cast<float*>(data), &std::free};
}

// body(task, scratch) for every task, on torch's threads.
template <class Body>
void run(const Rows& rows, int64_t scratch_floats, const Body& body) {
    torch::stable::parallel_for(0, rows.tasks(), 1, [&](int64_t begin, int64_t end) {
        const Floats scratch = allocate(scratch_floats + 16);
        for (int64_t task = begin; task < end; ++task) body(task, scratch.get());
    });
}

// Sums of runs of `per` tasks, in their order: (tasks / per, width).
std::vector<double> add_tasks(const std::vector<double>& sums, int64_t per, int64_t width) {
    std::vector<double> total(sums.size() / per);
    for (size_t i = 0; i < sums.size(); ++i) total[i / width / per * width + i % width] += sums[i];
    return total;
}

Tensor float_tensor(const Tensor& like, std::vector<int64_t> shape, const double* from) {
    Tensor tensor = torch::stable::new_empty(like, shape);
    std::copy(from, from + tensor.numel(), data(tensor));
    return tensor;
}

// ---- convolution ---------------------------------------------------------------------------------------------------

std::tuple<Tensor, Tensor> conv3x3(const Tensor& x, const Tensor& weight, const Tensor& bias, bool residual) {
    ConvolutionJob job{};
    job.rows = rows_of(x);
    job.residual = residual;
    const int64_t C = job.rows.channels;
    job.x = floats(x, shape_of(job.rows), "x");
    job.bias = floats(bias, {C}, "bias");
    std::vector<float> packed(convolution_kernels().packed_floats(int(C)));
    convolution_kernels().pack(floats(weight, {C, C, 3, 3}, "weight"), int(C), packed.data());
    job.packed = packed.data();
    Tensor y = torch::stable::empty_like(x);
    job.out = data(y);
    std::vector<double> sums(job.rows.tasks() * C);
    job.sums = sums.data();
    run(job.rows, convolution_kernels().scratch_floats(job.rows),
        [&](int64_t task, float* scratch) { convolution_kernels().forward(job, task, scratch); });
    std::vector<double> mean = add_tasks(sums, std::max<int64_t>(1, job.rows.tasks_each()), C);
    mean.resize(job.rows.batch * C);
    for (double& value : mean) value /= double(job.rows.height * job.rows.width);
    return {y, float_tensor(x, {job.rows.batch, C}, mean.data())};
}

// dw = G^T products G, added up over the tasks: (C, C, 3, 3).
void weight_gradient(const float* products, int64_t tasks, int64_t C, float* gradient) {
    static constexpr double G[6][3] = {{1. / 4, 0, 0},
                                       {-1. / 6, -1. / 6, -1. / 6},
                                       {-1. / 6, 1. / 6, -1. / 6},
                                       {1. / 24, 1. / 12, 1. / 6},
                                       {1. / 24, -1. / 12, 1. / 6},
                                       {0, 0, 1}};
    const int64_t n = C * C;  // [input][output], the innermost loops
    std::vector<float> total(36 * n);
    std::vector<double> half(18 * n), whole(9 * n);
    for (int64_t task = 0; task < tasks; ++task)
        for (int64_t e = 0; e < 36 * n; ++e) total[e] += products[task * 36 * n + e];
    for (int i = 0; i < 6; ++i)
        for (int r = 0; r < 3; ++r)
            for (int64_t e = 0; G[i][r] != 0 && e < 6 * n; ++e) half[r * 6 * n + e] += G[i][r] * total[i * 6 * n + e];
    for (int r = 0; r < 3; ++r)
        for (int j = 0; j < 6; ++j)
            for (int c = 0; c < 3; ++c)
                for (int64_t e = 0; G[j][c] != 0 && e < n; ++e)
                    whole[(r * 3 + c) * n + e] += G[j][c] * half[(r * 6 + j) * n + e];
    for (int64_t k = 0; k < C; ++k)
        for (int64_t o = 0; o < C; ++o)
            for (int tap = 0; tap < 9; ++tap) gradient[(o * C + k) * 9 + tap] = float(whole[tap * n + k * C + o]);
}

std::tuple<Tensor, Tensor, Tensor> conv3x3_backward(const std::optional<Tensor>& gradient,
                                                    const std::optional<Tensor>& mean_gradient, const Tensor& x,
                                                    const std::optional<Tensor>& y, const Tensor& weight,
                                                    bool input_gradient) {
    ConvolutionJob job{};
    job.rows = rows_of(x);
    job.residual = y.has_value();
    const int64_t C = job.rows.channels;
    job.x = floats(x, shape_of(job.rows), "x");
    if (y) job.y = floats(*y, shape_of(job.rows), "y");
    if (gradient) job.gradient = floats(*gradient, shape_of(job.rows), "gradient");
    std::vector<float> offset(job.rows.batch * C);
    if (mean_gradient) {
        const float* from = floats(*mean_gradient, {job.rows.batch, C}, "mean_gradient");
        for (size_t i = 0; i < offset.size(); ++i)
            offset[i] = float(double(from[i]) / double(job.rows.height * job.rows.width));
        job.offset = offset.data();
    }
    const float* w = floats(weight, {C, C, 3, 3}, "weight");
    std::vector<float> packed(convolution_kernels().packed_floats(int(C))), adjoint(C * C * 9);
    for (int64_t o = 0; o < C; ++o)
        for (int64_t k = 0; k < C; ++k)
            for (int64_t tap = 0; tap < 9; ++tap) adjoint[(k * C + o) * 9 + 8 - tap] = w[(o * C + k) * 9 + tap];
    convolution_kernels().pack(adjoint.data(), int(C), packed.data());
    job.packed = packed.data();
    Tensor out = torch::stable::new_empty(
        x, input_gradient ? shape_of(job.rows) : std::vector<int64_t>{0, job.rows.height, job.rows.width, C});
    job.out = input_gradient ? data(out) : nullptr;
    std::vector<double> sums(job.rows.tasks() * C);
    const Floats products = allocate(job.rows.tasks() * 36 * C * C);
    job.sums = sums.data();
    job.products = products.get();
    run(job.rows, convolution_kernels().scratch_floats(job.rows),
        [&](int64_t task, float* scratch) { convolution_kernels().backward(job, task, scratch); });
    std::vector<double> bias = add_tasks(sums, std::max<int64_t>(1, job.rows.tasks()), C);
    bias.resize(C);
    Tensor by_weight = torch::stable::empty_like(weight);
    weight_gradient(products.get(), job.rows.tasks(), C, data(by_weight));
    return {out, by_weight, float_tensor(x, {C}, bias.data())};
}

// ---- gate ----------------------------------------------------------------------------------------------------------

GateJob gate_job(const Tensor& z, const Tensor& gate, const Tensor& weight1, const Tensor& bias1, const Tensor& weight2,
                 const Tensor& bias2) {
    GateJob job{};
    job.rows = rows_of(z);
    const int64_t C = job.rows.channels;
    job.z = floats(z, shape_of(job.rows), "z");
    job.gate = floats(gate, {job.rows.batch, C}, "gate");
    job.pixel[0] = floats(weight1, {C / 8, C}, "weight1");
    job.pixel[1] = floats(bias1, {C / 8}, "bias1");
    job.pixel[2] = floats(weight2, {1, C / 8}, "weight2");
    job.pixel[3] = floats(bias2, {1}, "bias2");
    return job;
}

Tensor gate_maps(const std::optional<Tensor>& x, const Tensor& z, const Tensor& gate, const Tensor& weight1,
                 const Tensor& bias1, const Tensor& weight2, const Tensor& bias2) {
    GateJob job = gate_job(z, gate, weight1, bias1, weight2, bias2);
    if (x) job.x = floats(*x, shape_of(job.rows), "x");
    Tensor out = torch::stable::empty_like(z);
    job.out = data(out);
    run(job.rows, 0, [&](int64_t task, float*) { gate_kernels().forward(job, task); });
    return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> gate_maps_backward(const Tensor& gradient, const Tensor& z,
                                                                              const Tensor& gate, const Tensor& weight1,
                                                                              const Tensor& bias1,
                                                                              const Tensor& weight2,
                                                                              const Tensor& bias2) {
    GateJob job = gate_job(z, gate, weight1, bias1, weight2, bias2);
    const int64_t C = job.rows.channels, hidden = C / 8, width = gate_sums(job.rows.channels);
    job.gradient = floats(gradient, shape_of(job.rows), "gradient");
    Tensor out = torch::stable::empty_like(z);
    job.out = data(out);
    std::vector<double> sums(job.rows.tasks() * width);
    job.sums = sums.data();
    run(job.rows, 0, [&](int64_t task, float*) { gate_kernels().backward(job, task); });

    const std::vector<double> images = add_tasks(sums, std::max<int64_t>(1, job.rows.tasks_each()), width);
    std::vector<double> gates(job.rows.batch * C), rest(width - C);
    for (size_t i = 0; i < images.size(); ++i) {
        const int64_t image = int64_t(i) / width, at = int64_t(i) % width;
        if (at < C)
            gates[image * C + at] = images[i];
        else
            rest[at - C] += images[i];
    }
    const double* from = rest.data();
    Tensor w1 = float_tensor(z, {hidden, C}, from), b1 = float_tensor(z, {hidden}, from += hidden * C);
    Tensor w2 = float_tensor(z, {1, hidden}, from += hidden), b2 = float_tensor(z, {1}, from += hidden);
    return {out, float_tensor(z, {job.rows.batch, C}, gates.data()), w1, b1, w2, b2};
}

}  // namespace
}  // namespace famkern

STABLE_TORCH_LIBRARY_IMPL(famkern, CPU, m) {
    m.impl("conv3x3", TORCH_BOX(&famkern::conv3x3));
    m.impl("conv3x3_backward", TORCH_BOX(&famkern::conv3x3_backward));
    m.impl("gate", TORCH_BOX(&famkern::gate_maps));
    m.impl("gate_backward", TORCH_BOX(&famkern::gate_maps_backward));
}
