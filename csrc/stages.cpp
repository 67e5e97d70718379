// Registers the stages of the network for the CPU and, where they were built, those in CUDA C++ for GPUs; contracts are
// in famkern/ops/{head,block,group,tail}.py. Here a call is checked for what memory safety needs and run: on as many
// threads as torch is set to, or on the current stream.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/stage.h"
#include "cpu/tasks.h"

#ifdef FAMKERN_CUDA
#include "cuda/stages.h"
#include "stream.h"
#endif

namespace famkern {

FAMKERN_KERNELS(StageKernels, stage_kernels)

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

#ifdef FAMKERN_CUDA
void run_on_gpu(const StageCall& call, const Tensor& out) {
    STD_TORCH_CHECK(call.channels == 16 && call.storage != Storage::float32 && call.map_count <= cuda::kMostMaps,
                    "the stages in CUDA C++ have 16 channels, maps in float16 or bfloat16, and at most ",
                    cuda::kMostMaps, " groups");
    const Tensor workspace = torch::stable::new_empty(out, {cuda::workspace_bytes(call)}, ScalarType::Byte);
    const int error = cuda::run_stage_on(call.device, call, workspace.data_ptr(), current_stream(call.device));
    STD_TORCH_CHECK(error == 0, "CUDA: ", cuda::error_text(error));
}
#endif

// `out` is any output.
void run(const StageCall& call, [[maybe_unused]] const Tensor& out) {
#ifdef FAMKERN_CUDA
    if (call.device >= 0) return run_on_gpu(call, out);
#endif
    run_stage(stage_kernels(), call, torch::stable::get_num_threads());
}

// ---- checks -------------------------------------------------------------------------------------------------------

// Whether a tensor is on the device of the call.
bool is_here(const StageCall& call, const Tensor& tensor) {
    return call.device < 0 ? tensor.is_cpu() : tensor.is_cuda() && tensor.get_device_index() == call.device;
}

const float* floats(const StageCall& call, const Tensor& tensor, std::vector<int64_t> shape, const char* name) {
    bool fits = is_here(call, tensor) && tensor.is_contiguous() && tensor.scalar_type() == ScalarType::Float &&
                tensor.dim() == int64_t(shape.size());
    for (size_t i = 0; fits && i < shape.size(); ++i) fits = tensor.size(i) == shape[i];
    STD_TORCH_CHECK(fits, name,
                    ": contiguous float32 on the maps' device, of the shape in the operator's contract, expected");
    return static_cast<const float*>(tensor.const_data_ptr());
}

Storage storage_of(const Tensor& tensor, const char* name) {
    switch (tensor.scalar_type()) {
        case ScalarType::Float:
            return Storage::float32;
        case ScalarType::Half:
            return Storage::float16;
        case ScalarType::BFloat16:
            return Storage::bfloat16;
        default:
            STD_TORCH_CHECK(false, name, ": float32, float16 or bfloat16 expected");
            return {};
    }
}

// A map of `extra` rows more than the outputs.
Map map_of(const StageCall& call, const Tensor& tensor, int64_t channels, int64_t extra, const char* name) {
    STD_TORCH_CHECK(is_here(call, tensor) && tensor.dim() == 4 && tensor.size(0) == call.batch &&
                        tensor.size(1) == call.rows + extra && tensor.size(2) == call.width &&
                        tensor.size(3) == channels,
                    name, ": (B, rows, W, C) on one device, of the shape in the operator's contract, expected");
    STD_TORCH_CHECK((tensor.stride(3) == 1 || channels == 1) && (tensor.stride(2) == channels || call.width == 1) &&
                        (tensor.stride(1) == call.width * channels || tensor.size(1) == 1),
                    name, ": the rows of an image must be contiguous");
    STD_TORCH_CHECK(call.device < 0 || channels == 3 || reinterpret_cast<uintptr_t>(tensor.data_ptr()) % 16 == 0, name,
                    ": the kernels for GPUs read 16 bytes at a time; the first number must lie on such a boundary");
    return {tensor.data_ptr(), tensor.stride(0)};
}

Map maps_of(const StageCall& call, const Tensor& tensor, int64_t extra, const char* name) {
    STD_TORCH_CHECK(storage_of(tensor, name) == call.storage, name, ": all maps must have the same dtype");
    return map_of(call, tensor, call.channels, extra, name);
}

Map picture_of(const StageCall& call, const Tensor& tensor, int64_t extra, const char* name) {
    STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Float, name, ": float32 expected");
    return map_of(call, tensor, 3, extra, name);
}

double* sums_of(const StageCall& call, const Tensor& tensor, const char* name) {
    STD_TORCH_CHECK(is_here(call, tensor) && tensor.is_contiguous() && tensor.scalar_type() == ScalarType::Double &&
                        tensor.dim() == 4 && tensor.size(0) == call.batch && tensor.size(1) == call.rows &&
                        tensor.size(2) == call.cells() && tensor.size(3) == call.channels,
                    name, ": contiguous float64 (B, rows, cells, C) on the maps' device expected");
    return static_cast<double*>(tensor.data_ptr());
}

// Weights of channels at the corners of cells, enough of them for every row and column of the inputs.
void set_gate(StageCall& call, const Tensor& gate) {
    STD_TORCH_CHECK(gate.dim() == 4, "gate: (B, Y, X, C) expected");
    call.gate_rows = gate.size(1);
    call.gate_columns = gate.size(2);
    const int64_t last_row = call.first_row + call.top + call.rows + call.bottom - 1;
    STD_TORCH_CHECK((call.gate_rows == 1 || (call.gate_rows > 1 && last_row / call.cell + 1 < call.gate_rows)) &&
                        (call.gate_columns == 1 || call.gate_columns == call.cells() + 1),
                    "gate: one number for all, or one for every corner of cells, in rows and in columns");
    call.gate = floats(call, gate, {call.batch, call.gate_rows, call.gate_columns, call.gates()}, "gate");
}

void add_convolution(StageCall& call, const Tensor& weight, const Tensor& bias, int outputs, const char* name) {
    call.convolution[call.convolutions++] = {floats(call, weight, {outputs, call.channels, 3, 3}, name),
                                             floats(call, bias, {outputs}, name), call.channels, outputs};
}

void set_pixel_attention(StageCall& call, const Tensor& weight1, const Tensor& bias1, const Tensor& weight2,
                         const Tensor& bias2) {
    const int64_t hidden = call.channels / 8;
    call.pixel[0] = floats(call, weight1, {hidden, call.channels}, "pixel attention");
    call.pixel[1] = floats(call, bias1, {hidden}, "pixel attention");
    call.pixel[2] = floats(call, weight2, {1, hidden}, "pixel attention");
    call.pixel[3] = floats(call, bias2, {1}, "pixel attention");
}

// An output. One that is part of a buffer too large for the caches is stored past them, if it lies on cache lines.
Map output_of(StageCall& call, const Tensor& tensor, const char* name) {
    constexpr int64_t kLarge = 6 << 20;  // four such buffers fill the last cache of a usual machine
    int64_t bytes = 0;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_size(tensor.get(), &bytes));
    const Map map = maps_of(call, tensor, 0, name);
    call.stream = call.stream && bytes >= kLarge && reinterpret_cast<uintptr_t>(map.data) % 64 == 0;
    return map;
}

// `out` is the output that every stage has; the sizes of the others follow from it.
StageCall begin(StageKind kind, const Tensor& out, Storage storage, int64_t channels, int64_t top, int64_t bottom,
                int64_t cell, int64_t first_row) {
    STD_TORCH_CHECK(channels == 16 || channels == 32 || channels == 64,
                    "the compiled stages have 16, 32 or 64 channels, not ", channels);
    STD_TORCH_CHECK(out.dim() == 4 && top >= 0 && bottom >= 0, "out: (B, rows, W, C) and no negative halo expected");
    StageCall call{};
    call.kind = kind;
    call.storage = storage;
    call.device = out.is_cuda() ? int(out.get_device_index()) : -1;
    call.stream = true;
    call.channels = int(channels);
    call.batch = out.size(0);
    call.rows = out.size(1);
    call.width = out.size(2);
    call.top = top;
    call.bottom = bottom;
    STD_TORCH_CHECK(cell >= call.width || (cell >= kTileSide && cell % kTileSide == 0),
                    "cell: a multiple of 4, or the width or more, expected, not ", cell);
    constexpr int64_t kMost = INT32_MAX;  // the kernels for GPUs count them in 32 bits
    STD_TORCH_CHECK(first_row >= 0, "first_row: 0 or more expected, not ", first_row);
    STD_TORCH_CHECK(call.device < 0 || (call.width < kMost && first_row + top + call.rows + bottom < kMost),
                    "fewer than 2^31 rows and columns expected on a GPU");
    call.cell = std::max<int64_t>(cell, 1);
    call.first_row = first_row;
    return call;
}

// ---- operators ----------------------------------------------------------------------------------------------------

void head_stage(const Tensor& image, const Tensor& mean, const Tensor& std, const Tensor& pre_weight,
                const Tensor& pre_bias, const Tensor& weight1, const Tensor& bias1, const Tensor& weight2,
                const Tensor& bias2, const Tensor& out_x, const Tensor& out_z, const Tensor& z_sums, int64_t top,
                int64_t bottom, int64_t cell) {
    StageCall call = begin(StageKind::head, out_z, storage_of(out_z, "out_z"), weight1.size(0), top, bottom, cell, 0);
    const int C = call.channels;
    call.image = picture_of(call, image, top + bottom, "image");
    call.mean = floats(call, mean, {3}, "mean");
    call.std = floats(call, std, {3}, "std");
    call.lift = {floats(call, pre_weight, {C, 3, 3, 3}, "pre"), floats(call, pre_bias, {C}, "pre"), 3, C};
    add_convolution(call, weight1, bias1, C, "conv1");
    add_convolution(call, weight2, bias2, C, "conv2");
    call.out_x = output_of(call, out_x, "out_x");
    call.out[0] = output_of(call, out_z, "out_z");
    call.sums[0] = sums_of(call, z_sums, "z_sums");
    run(call, out_z);
}

void block_stage(const Tensor& x, const Tensor& z, const Tensor& gate, const Tensor& pixel_weight1,
                 const Tensor& pixel_bias1, const Tensor& pixel_weight2, const Tensor& pixel_bias2,
                 const Tensor& weight1, const Tensor& bias1, const Tensor& weight2, const Tensor& bias2,
                 const Tensor& out_x, const Tensor& out_z, const Tensor& z_sums, int64_t top, int64_t bottom,
                 int64_t cell, int64_t first_row) {
    StageCall call = begin(StageKind::block, out_z, storage_of(x, "x"), weight1.size(0), top, bottom, cell, first_row);
    const int C = call.channels;
    const Map maps[] = {maps_of(call, x, top + bottom, "x"), maps_of(call, z, top + bottom, "z")};
    call.maps = maps;
    call.map_count = 2;
    set_gate(call, gate);
    set_pixel_attention(call, pixel_weight1, pixel_bias1, pixel_weight2, pixel_bias2);
    add_convolution(call, weight1, bias1, C, "conv1");
    add_convolution(call, weight2, bias2, C, "conv2");
    call.out_x = output_of(call, out_x, "out_x");
    call.out[0] = output_of(call, out_z, "out_z");
    call.sums[0] = sums_of(call, z_sums, "z_sums");
    run(call, out_z);
}

StageCall group(StageKind kind, Map (&maps)[3], const Tensor& x, const Tensor& z, const Tensor& skip,
                const Tensor& gate, const Tensor& pixel_weight1, const Tensor& pixel_bias1, const Tensor& pixel_weight2,
                const Tensor& pixel_bias2, const Tensor& weight, const Tensor& bias, const Tensor& out_r,
                const Tensor& r_sums, int64_t top, int64_t bottom, int64_t cell, int64_t first_row) {
    StageCall call = begin(kind, out_r, storage_of(x, "x"), weight.size(0), top, bottom, cell, first_row);
    maps[0] = maps_of(call, x, top + bottom, "x");
    maps[1] = maps_of(call, z, top + bottom, "z");
    maps[2] = maps_of(call, skip, top + bottom, "skip");
    call.maps = maps;
    call.map_count = 3;
    set_gate(call, gate);
    set_pixel_attention(call, pixel_weight1, pixel_bias1, pixel_weight2, pixel_bias2);
    add_convolution(call, weight, bias, call.channels, "conv");
    call.out[0] = output_of(call, out_r, "out_r");
    call.sums[0] = sums_of(call, r_sums, "r_sums");
    return call;
}

void group_stage(const Tensor& x, const Tensor& z, const Tensor& skip, const Tensor& gate, const Tensor& pixel_weight1,
                 const Tensor& pixel_bias1, const Tensor& pixel_weight2, const Tensor& pixel_bias2,
                 const Tensor& weight, const Tensor& bias, const Tensor& weight1, const Tensor& bias1,
                 const Tensor& weight2, const Tensor& bias2, const Tensor& out_r, const Tensor& out_z,
                 const Tensor& r_sums, const Tensor& z_sums, int64_t top, int64_t bottom, int64_t cell,
                 int64_t first_row) {
    Map maps[3];
    StageCall call = group(StageKind::group, maps, x, z, skip, gate, pixel_weight1, pixel_bias1, pixel_weight2,
                           pixel_bias2, weight, bias, out_r, r_sums, top, bottom, cell, first_row);
    add_convolution(call, weight1, bias1, call.channels, "conv1");
    add_convolution(call, weight2, bias2, call.channels, "conv2");
    call.out[1] = output_of(call, out_z, "out_z");
    call.sums[1] = sums_of(call, z_sums, "z_sums");
    run(call, out_z);
}

void last_group_stage(const Tensor& x, const Tensor& z, const Tensor& skip, const Tensor& gate,
                      const Tensor& pixel_weight1, const Tensor& pixel_bias1, const Tensor& pixel_weight2,
                      const Tensor& pixel_bias2, const Tensor& weight, const Tensor& bias, const Tensor& out_r,
                      const Tensor& r_sums, int64_t top, int64_t bottom, int64_t cell, int64_t first_row) {
    Map maps[3];
    run(group(StageKind::last_group, maps, x, z, skip, gate, pixel_weight1, pixel_bias1, pixel_weight2, pixel_bias2,
              weight, bias, out_r, r_sums, top, bottom, cell, first_row),
        out_r);
}

void tail_stage(const Tensor& image, std::vector<Tensor> groups, const Tensor& gate, const Tensor& mean,
                const Tensor& std, const Tensor& pixel_weight1, const Tensor& pixel_bias1, const Tensor& pixel_weight2,
                const Tensor& pixel_bias2, const Tensor& weight1, const Tensor& bias1, const Tensor& weight2,
                const Tensor& bias2, const Tensor& out, int64_t top, int64_t bottom, int64_t cell, int64_t first_row) {
    STD_TORCH_CHECK(!groups.empty(), "groups: at least one map expected");
    StageCall call =
        begin(StageKind::tail, out, storage_of(groups[0], "groups"), weight1.size(0), top, bottom, cell, first_row);
    const int C = call.channels;
    call.image = picture_of(call, image, top + bottom, "image");
    std::vector<Map> maps;
    for (const Tensor& group : groups) maps.push_back(maps_of(call, group, top + bottom, "groups"));
    call.maps = maps.data();
    call.map_count = int64_t(maps.size());
    set_gate(call, gate);
    call.mean = floats(call, mean, {3}, "mean");
    call.std = floats(call, std, {3}, "std");
    set_pixel_attention(call, pixel_weight1, pixel_bias1, pixel_weight2, pixel_bias2);
    add_convolution(call, weight1, bias1, C, "post1");
    add_convolution(call, weight2, bias2, 3, "post2");
    call.out[0] = picture_of(call, out, 0, "out");
    run(call, out);
}

}  // namespace
}  // namespace famkern

STABLE_TORCH_LIBRARY_IMPL(famkern, CPU, m) {
    m.impl("head_stage", TORCH_BOX(&famkern::head_stage));
    m.impl("block_stage", TORCH_BOX(&famkern::block_stage));
    m.impl("group_stage", TORCH_BOX(&famkern::group_stage));
    m.impl("last_group_stage", TORCH_BOX(&famkern::last_group_stage));
    m.impl("tail_stage", TORCH_BOX(&famkern::tail_stage));
}

#ifdef FAMKERN_CUDA
// Under names of their own: Triton has the others, for what these do not do.
STABLE_TORCH_LIBRARY_IMPL(famkern, CUDA, m) {
    m.impl("head_stage_cuda", TORCH_BOX(&famkern::head_stage));
    m.impl("block_stage_cuda", TORCH_BOX(&famkern::block_stage));
    m.impl("group_stage_cuda", TORCH_BOX(&famkern::group_stage));
    m.impl("last_group_stage_cuda", TORCH_BOX(&famkern::last_group_stage));
    m.impl("tail_stage_cuda", TORCH_BOX(&famkern::tail_stage));
}

// For Python's ctypes: these are here.
extern "C" __attribute__((visibility("default"))) void famkern_has_cuda_stages() {}

// The CUDA that the driver knows, 0 without one, and the CUDA that compiled the kernels: 1000 major + 10 minor.
extern "C" __attribute__((visibility("default"))) void famkern_cuda_versions(int (&versions)[2]) {
    famkern::cuda::versions(versions);
}
#endif

// For Python's ctypes: the bytes that a call for such a band works in, at most; `cell` as in the operators.
extern "C" __attribute__((visibility("default"))) int64_t famkern_stage_workspace(int64_t rows, int64_t width,
                                                                                  int64_t channels, int64_t cell,
                                                                                  int64_t threads) {
    famkern::StageCall call{};
    call.kind = famkern::StageKind::group;  // the greediest
    call.channels = int(channels);
    call.batch = 1;
    call.rows = rows;
    call.width = width;
    call.cell = cell;
    for (auto& convolution : call.convolution) convolution = {nullptr, nullptr, call.channels, call.channels};
    call.convolutions = famkern::kMaxConvolutions;
    const famkern::Workspace workspace(famkern::stage_kernels(), call, famkern::Columns(call));
    return workspace.packed + threads * workspace.scratch + 2 * workspace.partial;
}
