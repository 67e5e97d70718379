// Registers the operators of reduced scale for the CPU; contracts are in
// famkern/ops/{reduce_picture,fit_affine,apply_affine}.py. Here a call is checked for what memory safety needs, and its
// tasks are run on as many threads as torch is set to.
#include "cpu/scale.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <atomic>
#include <optional>

#include "cpu/dispatch.h"
#include "cpu/tasks.h"

namespace famkern {

FAMKERN_KERNELS(ScaleKernels, scale_kernels)

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kApart = 64;  // bytes between what two workers write: they share no cache line

int64_t apart(int64_t bytes) { return (bytes + kApart - 1) / kApart * kApart; }

template <class Call>
void run(void (*kernel)(const Call&, int64_t, void*), const Call& call) {
    const int64_t tasks = call.tasks(), each = apart(call.scratch_bytes()),
                  workers = std::min<int64_t>(torch::stable::get_num_threads(), tasks);
    if (tasks == 0) return;
    const Scratch memory = allocate(workers * each);
    std::atomic<int64_t> next{0};
    Team::run(workers, [&](int64_t worker) {
        void* const scratch = static_cast<char*>(memory.get()) + worker * each;
        for (int64_t task = next++; task < tasks; task = next++) kernel(call, task, scratch);
    });
}

bool is_wide(const Tensor& map) { return map.scalar_type() == ScalarType::Double; }

Picture picture_of(const Tensor& rows, const char* name) {
    STD_TORCH_CHECK(rows.is_cpu() && rows.dim() == 3 && rows.size(0) > 0 && rows.size(1) > 0 && rows.size(2) == 3, name,
                    ": rows of a picture, (rows, W, 3) on the CPU, expected");
    Picture picture{static_cast<char*>(rows.mutable_data_ptr()),
                    Depth::uint8,
                    rows.size(0),
                    rows.size(1),
                    {rows.stride(0), rows.stride(1), rows.stride(2)}};
    switch (rows.scalar_type()) {
        case ScalarType::Byte:
            picture.depth = Depth::uint8;
            break;
        case ScalarType::UInt16:
            picture.depth = Depth::uint16;
            break;
        case ScalarType::Float:
            picture.depth = Depth::float32;
            break;
        case ScalarType::Double:
            picture.depth = Depth::float64;
            break;
        default:
            STD_TORCH_CHECK(false, name, ": uint8, uint16, float32 or float64 expected");
    }
    return picture;
}

// A contiguous map of this height (any, if negative), width and dtype; channels 0 for a map without that dimension.
char* map_of(const Tensor& map, int64_t rows, int64_t width, int64_t channels, bool wide, const char* name) {
    STD_TORCH_CHECK(map.is_cpu() && map.is_contiguous() && map.dim() == (channels > 0 ? 3 : 2) &&
                        (rows < 0 || map.size(0) == rows) && map.size(1) == width &&
                        (channels == 0 || map.size(2) == channels) &&
                        map.scalar_type() == (wide ? ScalarType::Double : ScalarType::Float),
                    name, ": contiguous float32 or float64, of the shape in the operator's contract, expected");
    return static_cast<char*>(map.mutable_data_ptr());
}

void check_scale(int64_t scale) {
    STD_TORCH_CHECK(scale >= 1 && scale <= kMostScale, "scale: 1 to ", kMostScale, " expected, not ", scale);
}

void reduce_picture(const Tensor& image, const Tensor& out, int64_t scale, int64_t image_row, int64_t row) {
    check_scale(scale);
    ReduceCall call{};
    call.image = picture_of(image, "image");
    call.wide = is_wide(out);
    call.rows = out.dim() == 3 ? out.size(0) : 0;
    call.width = (call.image.width + scale - 1) / scale;
    call.out = map_of(out, call.rows, call.width, 3, call.wide, "out");
    call.scale = scale;
    call.image_row = image_row;
    call.row = row;
    STD_TORCH_CHECK(image_row >= 0 && row >= 0 && row * scale >= image_row &&
                        (row + call.rows - 1) * scale < image_row + call.image.rows,
                    "image: the rows that the reduced rows are made of expected");
    run(scale_kernels().reduce, call);
}

void fit_affine(const Tensor& image, const Tensor& target, const std::optional<Tensor>& weights, const Tensor& a,
                const Tensor& b, int64_t top) {
    FitCall call{};
    call.wide = is_wide(image);
    call.input_rows = image.dim() == 3 ? image.size(0) : 0;
    call.width = image.dim() == 3 ? image.size(1) : 0;
    call.rows = a.dim() == 3 ? a.size(0) : 0;
    call.top = top;
    call.image = map_of(image, call.input_rows, call.width, 3, call.wide, "image");
    call.target = map_of(target, call.input_rows, call.width, 3, call.wide, "target");
    if (weights) call.weights = map_of(*weights, call.input_rows, call.width, 0, call.wide, "weights");
    call.out[0] = map_of(a, call.rows, call.width, 3, call.wide, "a");
    call.out[1] = map_of(b, call.rows, call.width, 3, call.wide, "b");
    STD_TORCH_CHECK(top >= 0 && top + call.rows <= call.input_rows, "a, b: rows of the image expected");
    if (call.rows == 0 || call.width == 0) return;
    call.cut(torch::stable::get_num_threads());
    run(scale_kernels().fit, call);
}

void apply_affine(const Tensor& image, const Tensor& a, const Tensor& b, const Tensor& out, int64_t scale,
                  double strength, int64_t row, int64_t map_row) {
    check_scale(scale);
    ApplyCall call{};
    call.image = picture_of(image, "image");
    call.out = picture_of(out, "out");
    STD_TORCH_CHECK(
        call.out.depth == call.image.depth && call.out.rows == call.image.rows && call.out.width == call.image.width,
        "out: of the image's shape and dtype expected");
    call.wide = is_wide(a);
    call.map_rows = a.dim() == 3 ? a.size(0) : 0;
    call.map_width = (call.image.width + scale - 1) / scale;
    call.maps[0] = map_of(a, call.map_rows, call.map_width, 3, call.wide, "a");
    call.maps[1] = map_of(b, call.map_rows, call.map_width, 3, call.wide, "b");
    call.strength = strength;
    call.scale = scale;
    call.row = row;
    call.map_row = map_row;
    const int64_t last = map_row + call.map_rows - 1;
    STD_TORCH_CHECK(row >= 0 && map_row >= 0 && Between(row, scale, last).low() >= map_row &&
                        (row + call.image.rows - 1) / scale <= last,
                    "a, b: the rows around the image's expected");
    run(scale_kernels().apply, call);
}

}  // namespace
}  // namespace famkern

STABLE_TORCH_LIBRARY_IMPL(famkern, CPU, m) {
    m.impl("reduce_picture", TORCH_BOX(&famkern::reduce_picture));
    m.impl("fit_affine", TORCH_BOX(&famkern::fit_affine));
    m.impl("apply_affine", TORCH_BOX(&famkern::apply_affine));
}

// For Python's ctypes: the bytes that a call of any of the three works in, at most, for a picture of this width.
extern "C" __attribute__((visibility("default"))) int64_t famkern_scale_workspace(int64_t width, int64_t scale,
                                                                                  int64_t threads) {
    famkern::ReduceCall reduce{};
    famkern::ApplyCall apply{};
    reduce.image.width = apply.image.width = width;
    apply.map_width = (width + scale - 1) / scale;
    return threads *
           famkern::apart(std::max({reduce.scratch_bytes(), famkern::FitCall::scratch_bytes(), apply.scratch_bytes()}));
}
