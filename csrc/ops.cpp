// Registers the CPU kernels with PyTorch through LibTorch's stable ABI. Schemas, contracts, fakes and autograd are in
// famkern/ops; here an operator checks what memory safety needs, allocates, fills in a job and runs its chunks.
#include <sys/mman.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "cpu/affinity.h"
#include "cpu/dispatch.h"

namespace famkern {

FAMKERN_KERNELS(AffinityMapsKernels, affinity_maps_kernels)
FAMKERN_KERNELS(AffinityTiledKernels, affinity_tiled_kernels)

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

Type type_of(const Tensor& tensor, const char* name) {
    switch (tensor.scalar_type()) {
        case ScalarType::Float:
            return Type::float32;
        case ScalarType::Double:
            return Type::float64;
        case ScalarType::Half:
            return Type::float16;
        case ScalarType::BFloat16:
            return Type::bfloat16;
        default:
            STD_TORCH_CHECK(false, name, ": float32, float64, float16 or bfloat16 expected");
            return {};
    }
}

// Runs the chunks of a job on torch's threads, unless there is less work than it takes to wake one:
// `work` elements.
template <class Job>
void run(void (*kernel)(const Job&, int64_t), const Job& job, int64_t chunks, int64_t work) {
    const int64_t grain = std::max<int64_t>(1, chunks * 32768 / std::max<int64_t>(1, work));
    torch::stable::parallel_for(0, chunks, grain, [&](int64_t begin, int64_t end) {
        for (int64_t chunk = begin; chunk < end; ++chunk) kernel(job, chunk);
    });
}

// Getting at fresh memory for the first time costs more than filling it, page by page of 4 KiB: with pages of 2 MiB,
// where the system has them, a large gradient takes a third of the time. A hint, so its failure changes nothing.
void ask_for_huge_pages(void* data, size_t bytes) {
    constexpr uintptr_t page = 4096;
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
    const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / page * page;
    if (bytes >= (16 << 20)) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
}

// ---- affinity ------------------------------------------------------------------------------------------------------

FeatureMap feature_map(const Tensor& map, int64_t pool, const char* name) {
    STD_TORCH_CHECK(map.dim() == 4 && map.is_cpu() && pool >= 1, name,
                    ": B x C x H x W on the CPU and pool >= 1 expected");
    return {map.const_data_ptr(), type_of(map, name), map.size(1),   pool,
            map.stride(0),        map.stride(1),      map.stride(2), map.stride(3)};
}

Grid grid_of(const Tensor& map, int64_t pool, int64_t most_chunks) {
    const int64_t rows = map.size(2) / pool;
    return {map.size(0), rows, map.size(3) / pool, std::max<int64_t>(1, (rows + most_chunks - 1) / most_chunks)};
}

// |A(S') - A(T')|_F: the root of 1/4 sum of gram * X gram X, where X swaps the two halves. Affinities can be equal
// though features are not; the terms then cancel and what is left, up to 2^-51 of their magnitude, is rounding: 0 under
// 2^-48.
double affinity_norm(const double* gram, int64_t K) {
    const int64_t C = K / 2;
    double square = 0, magnitude = 0;
    for (int64_t i = 0; i < K; ++i)
        for (int64_t j = 0; j < K; ++j) {
            const double term = gram[i * K + j] * gram[(i + C) % K * K + (j + C) % K];
            square += term;
            magnitude += std::abs(term);
        }
    const bool rounding = square <= 0x1p-48 * magnitude && std::isfinite(magnitude);  // NaN and infinity stay
    return rounding ? 0 : std::sqrt(square / 4);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> affinity_maps(const std::optional<Tensor>& teacher, const Tensor& student,
                                                         int64_t teacher_pool, int64_t student_pool, bool normalize,
                                                         bool gram) {
    MapsJob job{};
    job.sources[0] = feature_map(student, student_pool, "student");
    job.count = teacher ? 2 : 1;
    if (teacher) job.sources[1] = feature_map(*teacher, teacher_pool, "teacher");
    const int64_t C = teacher ? std::max(student.size(1), teacher->size(1)) : student.size(1), K = job.count * C;
    // Partial Gram matrices take at most 1 MiB an image, or are one.
    job.grid = grid_of(student, student_pool, gram ? std::clamp<int64_t>((1 << 17) / (K * K + 1), 1, 64) : 64);
    const int64_t B = job.grid.images, N = job.grid.positions();
    STD_TORCH_CHECK(!gram || teacher, "a Gram matrix is of a pair: teacher expected");
    STD_TORCH_CHECK(!teacher || (teacher->size(0) == B && teacher->size(2) / teacher_pool == job.grid.rows &&
                                 teacher->size(3) / teacher_pool == job.grid.columns),
                    "teacher and student must have the same batch size and pooled grid");
    job.height = K;
    job.normalize = normalize;
    job.wide = job.sources[0].type == Type::float64 || (teacher && job.sources[1].type == Type::float64);

    const ScalarType type = job.wide ? ScalarType::Double : ScalarType::Float;
    Tensor maps = torch::stable::new_empty(student, {B, K, N}, type);
    Tensor inverse = torch::stable::new_empty(student, {B, normalize ? job.count : 0, N}, type);
    Tensor grams = torch::stable::new_zeros(student, {gram ? B : 0, K, K}, ScalarType::Double);
    Tensor norms = torch::stable::new_empty(student, {gram ? B : 0}, ScalarType::Double);
    job.maps = maps.mutable_data_ptr();
    job.inverse = inverse.mutable_data_ptr();
    const int64_t each = job.grid.chunks_per_image();
    std::vector<double> partials(gram ? job.grid.chunks() * K * K : 0);
    job.partials = gram ? partials.data() : nullptr;
    run(affinity_maps_kernels().maps, job, job.grid.chunks(), student.numel() + (teacher ? teacher->numel() : 0));

    if (gram) {  // in the order of the chunks, whoever computed them
        double* total = static_cast<double*>(grams.mutable_data_ptr());
        for (int64_t b = 0; b < B; ++b) {
            for (int64_t chunk = b * each; chunk < (b + 1) * each; ++chunk)
                for (int64_t i = 0; i < K * K; ++i) total[b * K * K + i] += partials[chunk * K * K + i];
            static_cast<double*>(norms.mutable_data_ptr())[b] = affinity_norm(total + b * K * K, K);
        }
    }
    return {maps, inverse, grams, norms};
}

Tensor affinity_spread(const Tensor& given_maps, const std::optional<Tensor>& given_coefficients, const Tensor& like,
                       int64_t pool) {
    SpreadJob job{};
    job.target = feature_map(like, pool, "like");
    job.grid = grid_of(like, pool, 64);
    const Tensor maps = torch::stable::contiguous(given_maps);
    const int64_t B = job.grid.images, C = like.size(1), N = job.grid.positions(),
                  K = maps.dim() == 3 ? maps.size(1) : 0;
    job.wide = type_of(maps, "maps") == Type::float64;
    STD_TORCH_CHECK(maps.dim() == 3 && maps.is_cpu() && maps.size(0) == B && maps.size(2) == N &&
                        (job.wide || type_of(maps, "maps") == Type::float32),
                    "maps: float32 or float64 [B, K, N] of the pooled grid of `like` expected");
    job.maps = maps.const_data_ptr();
    job.height = K;
    std::optional<Tensor> coefficients;
    if (given_coefficients) {
        coefficients = torch::stable::contiguous(*given_coefficients);
        STD_TORCH_CHECK(coefficients->dim() == 3 && coefficients->is_cpu() && coefficients->size(0) == B &&
                            coefficients->size(1) == C && coefficients->size(2) == K &&
                            type_of(*coefficients, "coefficients") == Type::float64,
                        "coefficients: float64 [B, C, K] expected");
        job.coefficients = static_cast<const double*>(coefficients->const_data_ptr());
    } else {
        STD_TORCH_CHECK(K == C, "maps: [B, C, N] expected without coefficients");
    }
    Tensor gradient = torch::stable::empty_like(like);
    job.gradient = gradient.mutable_data_ptr();
    ask_for_huge_pages(job.gradient, gradient.numel() * like.element_size());
    job.target = feature_map(gradient, pool, "like");
    job.image_rows = like.size(2);
    job.image_columns = like.size(3);
    run(affinity_maps_kernels().spread, job, job.grid.chunks(), like.numel());
    return gradient;
}

TiledJob tiled_job(const Tensor& maps) {
    STD_TORCH_CHECK(maps.dim() == 3 && maps.is_cpu() && maps.size(1) % 2 == 0, "maps: [B, 2 C, N] on the CPU expected");
    const Type type = type_of(maps, "maps");
    STD_TORCH_CHECK(type == Type::float32 || type == Type::float64, "maps: float32 or float64 expected");
    TiledJob job{};
    job.images = maps.size(0);
    job.height = maps.size(1);
    job.positions = maps.size(2);
    job.wide = type == Type::float64;
    job.maps = maps.const_data_ptr();
    return job;
}

Tensor affinity_l1(const Tensor& given_maps) {
    const Tensor maps = torch::stable::contiguous(given_maps);
    TiledJob job = tiled_job(maps);
    const int64_t tiles = (job.positions + kTile - 1) / kTile, each = (tiles + 1) / 2;
    std::vector<double> partials(job.images * each);
    job.partials = partials.data();
    run(affinity_tiled_kernels().sum, job, job.images * each, maps.numel() * job.positions);
    Tensor sums = torch::stable::new_zeros(maps, {job.images}, ScalarType::Double);
    double* out = static_cast<double*>(sums.mutable_data_ptr());
    for (int64_t b = 0; b < job.images; ++b)
        for (int64_t i = 0; i < each; ++i) out[b] += partials[b * each + i];
    return sums;
}

Tensor affinity_l1_backward(const Tensor& given_maps, const Tensor& given_scale) {
    const Tensor maps = torch::stable::contiguous(given_maps), scale = torch::stable::contiguous(given_scale);
    TiledJob job = tiled_job(maps);
    STD_TORCH_CHECK(
        scale.dim() == 1 && scale.is_cpu() && scale.size(0) == job.images && type_of(scale, "scale") == Type::float64,
        "scale: float64 [B] expected");
    job.scale = static_cast<const double*>(scale.const_data_ptr());
    Tensor gradient = torch::stable::empty_like(maps);
    job.gradient = gradient.mutable_data_ptr();
    run(affinity_tiled_kernels().gradient, job, job.images * ((job.positions + kTile - 1) / kTile),
        maps.numel() * job.positions);
    return gradient;
}

}  // namespace
}  // namespace famkern

STABLE_TORCH_LIBRARY_IMPL(famkern, CPU, m) {
    m.impl("affinity_maps", TORCH_BOX(&famkern::affinity_maps));
    m.impl("affinity_spread", TORCH_BOX(&famkern::affinity_spread));
    m.impl("affinity_l1", TORCH_BOX(&famkern::affinity_l1));
    m.impl("affinity_l1_backward", TORCH_BOX(&famkern::affinity_l1_backward));
}
