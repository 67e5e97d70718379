// Registers the feature affinity in CUDA C++, where it was built. Contracts, and which calls come here, are in
// famkern/ops/affinity_maps.py; here a call is checked for what memory safety needs and started on the current stream.
#ifdef FAMKERN_CUDA
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <vector>

#include "cuda/affinity.h"
#include "cuda/stages.h"
#include "stream.h"

namespace famkern {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

FeatureMap feature_map(const Tensor& map, int64_t pool, const char* name) {
    const ScalarType type = map.scalar_type();
    STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Half || type == ScalarType::BFloat16, name,
                    ": float32, float16 or bfloat16 expected");
    STD_TORCH_CHECK(map.is_cuda() && map.dim() == 4 && pool >= 1 && map.size(1) <= cuda::kMostChannels, name,
                    ": B x C x H x W on a GPU, at most ", cuda::kMostChannels, " channels and pool >= 1 expected");
    return {map.const_data_ptr(),
            type == ScalarType::Float  ? Type::float32
            : type == ScalarType::Half ? Type::float16
                                       : Type::bfloat16,
            map.size(1),
            pool,
            map.stride(0),
            map.stride(1),
            map.stride(2),
            map.stride(3)};
}

// Data of a contiguous tensor of this shape on the same GPU as `here`.
void* data_of(const Tensor& tensor, const Tensor& here, ScalarType type, const std::vector<int64_t>& shape,
              const char* name) {
    bool fits = tensor.is_cuda() && tensor.get_device_index() == here.get_device_index() && tensor.is_contiguous() &&
                tensor.scalar_type() == type && tensor.dim() == int64_t(shape.size());
    for (size_t i = 0; fits && i < shape.size(); ++i) fits = tensor.size(i) == shape[i];
    STD_TORCH_CHECK(fits, name, ": contiguous, on the features' GPU, of the shape and type in the contract expected");
    return tensor.data_ptr();
}

void check(int error) { STD_TORCH_CHECK(error == 0, "CUDA: ", cuda::error_text(error)); }

void affinity_maps(const Tensor& teacher, const Tensor& student, int64_t teacher_pool, int64_t student_pool,
                   const Tensor& maps, const Tensor& gram) {
    cuda::AffinityMaps call{};
    call.student = feature_map(student, student_pool, "student");
    call.teacher = feature_map(teacher, teacher_pool, "teacher");
    call.images = student.size(0);
    call.rows = student.size(2) / student_pool;
    call.columns = student.size(3) / student_pool;
    STD_TORCH_CHECK(teacher.get_device_index() == student.get_device_index() && teacher.size(0) == call.images &&
                        teacher.size(2) / teacher_pool == call.rows && teacher.size(3) / teacher_pool == call.columns,
                    "teacher and student must be on one GPU and have the same batch size and pooled grid");
    STD_TORCH_CHECK(call.positions() > 0 && call.positions() < INT32_MAX && call.images < 65536,
                    "at least one and fewer than 2^31 positions, fewer than 65536 images expected");
    const int64_t K = 2 * call.channels();
    call.maps =
        static_cast<float*>(data_of(maps, student, ScalarType::Float, {call.images, K, call.positions()}, "maps"));
    call.gram = static_cast<double*>(data_of(gram, student, ScalarType::Double, {call.images, K, K}, "gram"));
    const Tensor workspace = torch::stable::new_empty(student, {cuda::workspace_bytes(call)}, ScalarType::Byte);
    const int device = int(student.get_device_index());
    check(cuda::run_affinity_maps_on(device, call, workspace.data_ptr(), current_stream(device)));
}

void affinity_spread(const Tensor& maps, const Tensor& coefficients, const Tensor& gradient, int64_t pool) {
    cuda::AffinitySpread call{};
    call.gradient = feature_map(gradient, pool, "gradient");
    call.images = gradient.size(0);
    call.rows = gradient.size(2) / pool;
    call.columns = gradient.size(3) / pool;
    call.height = maps.dim() == 3 ? maps.size(1) : 0;
    const int64_t N = call.rows * call.columns;
    STD_TORCH_CHECK(
        call.height >= 1 && call.height <= 2 * cuda::kMostChannels && N > 0 && N < INT32_MAX && call.images < 65536,
        "maps: (B, K, N) with K at most ", 2 * cuda::kMostChannels, ", N under 2^31, B under 65536 expected");
    call.maps =
        static_cast<const float*>(data_of(maps, gradient, ScalarType::Float, {call.images, call.height, N}, "maps"));
    call.coefficients = static_cast<const double*>(data_of(
        coefficients, gradient, ScalarType::Double, {call.images, gradient.size(1), call.height}, "coefficients"));
    const int device = int(gradient.get_device_index());
    check(cuda::run_affinity_spread_on(device, call, current_stream(device)));
}

}  // namespace
}  // namespace famkern

// Under names of their own: Triton has the others, for what these do not do.
STABLE_TORCH_LIBRARY_IMPL(famkern, CUDA, m) {
    m.impl("affinity_maps_cuda", TORCH_BOX(&famkern::affinity_maps));
    m.impl("affinity_spread_cuda", TORCH_BOX(&famkern::affinity_spread));
}
#endif
