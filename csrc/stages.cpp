// Registers the operator of all stages, famkern::stage; its contract is in famkern/ops/stage.py, that of each kind in
// famkern/ops/kinds. Here a call is checked for what memory safety needs and run: on as many threads as torch is set
// to, or, where the kernels in CUDA C++ were built and its tensors lie on a GPU, on the current stream.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/shim_utils.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
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

// ---- a call, read off its tensors ---------------------------------------------------------------------------------

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

// The lists that the operator takes.
struct Lists {
    std::vector<Tensor> maps;
    std::optional<Tensor> gate;
    std::vector<Tensor> weights, outputs, sums;
};

// Takes the tensors of a call one after another, each where a kind's contract has it.
class Reader {
   public:
    Reader(StageKind kind, const Lists& lists, const std::vector<int64_t>& place) : lists_(lists) {
        STD_TORCH_CHECK(place.size() == 4, "place: top, bottom, cell and first_row expected");
        STD_TORCH_CHECK(!lists.maps.empty() && !lists.outputs.empty(),
                        "stage: at least one map and one output expected");
        const Tensor &out = lists.outputs[0], &last = lists.maps.back();
        const int64_t top = place[0], bottom = place[1], cell = place[2], first_row = place[3];
        STD_TORCH_CHECK(out.dim() == 4 && last.dim() == 4 && top >= 0 && bottom >= 0,
                        "out: (B, rows, W, C) and no negative halo expected");
        // A picture has none of the maps' channels: it is an output of the last stage, and a map of the first.
        const Tensor& map = out.size(3) == 3 ? last : out;
        STD_TORCH_CHECK(map.size(3) == 16 || map.size(3) == 32 || map.size(3) == 64,
                        "the compiled stages have 16, 32 or 64 channels, not ", map.size(3));
        call.kind = kind;
        call.storage = storage_of(map, "maps");
        call.device = out.is_cuda() ? int(out.get_device_index()) : -1;
        call.stream = true;
        call.channels = int(map.size(3));
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
        maps_.reserve(lists.maps.size());
    }

    void picture() { call.image = picture_of(next(lists_.maps, map_, "image"), halo(), "image"); }

    void map(const char* name) {
        maps_.push_back(map_of(next(lists_.maps, map_, name), halo(), name));
        call.maps = maps_.data();
        call.map_count = int64_t(maps_.size());
    }

    // The map of another level and its rows of the band, before weights of its own.
    void crossing(const char* name) {
        const Tensor& tensor = next(lists_.maps, map_, name);
        STD_TORCH_CHECK(tensor.dim() == 4, name, ": (B, rows, W, C) expected");
        Crossing& c = call.crossing;
        const int64_t rows = call.rows + halo(), end = call.first_row + rows;
        c.rows = tensor.size(1);
        c.width = tensor.size(2);
        c.channels = int(tensor.size(3));
        const auto is_fine = [](int64_t fine, int64_t length) { return fine == 2 * length || fine == 2 * length - 1; };
        const bool fits = call.kind == StageKind::down
                              ? is_fine(c.rows, rows) && is_fine(c.width, call.width)
                              : c.rows == (end + 1) / 2 - call.first_row / 2 && c.width == (call.width + 1) / 2;
        STD_TORCH_CHECK(fits, name, ": the rows and columns of another level in the operator's contract expected");
        STD_TORCH_CHECK(c.channels == 16 || c.channels == 32 || c.channels == 64,
                        "the compiled stages have 16, 32 or 64 channels, not ", c.channels);
        STD_TORCH_CHECK(storage_of(tensor, name) == call.storage, name, ": all maps must have the same dtype");
        c.map = rows_of(tensor, c.rows, c.width, c.channels, name);
    }

    void down(const char* name) {
        call.crossing.weight = weight({call.channels, call.crossing.channels, 2, 2}, name);
        call.crossing.bias = weight({call.channels}, name);
    }

    void up(const char* name) {
        call.crossing.weight = weight({4, call.channels, call.crossing.channels}, name);
        call.crossing.skip = weight({call.channels, call.channels}, name);
        call.crossing.bias = weight({4, call.channels}, name);
    }

    // All that are left.
    void maps(const char* name) {
        do map(name);
        while (map_ < lists_.maps.size());
    }

    // Weights of channels at the corners of cells, enough of them for every row and column of the inputs.
    void gate() {
        STD_TORCH_CHECK(lists_.gate.has_value() && lists_.gate->dim() == 4, "gate: (B, Y, X, C) expected");
        call.gate_rows = lists_.gate->size(1);
        call.gate_columns = lists_.gate->size(2);
        const int64_t last_row = call.first_row + halo() + call.rows - 1;
        STD_TORCH_CHECK((call.gate_rows == 1 || (call.gate_rows > 1 && last_row / call.cell + 1 < call.gate_rows)) &&
                            (call.gate_columns == 1 || call.gate_columns == call.cells() + 1),
                        "gate: one number for all, or one for every corner of cells, in rows and in columns");
        call.gate = floats(*lists_.gate, {call.batch, call.gate_rows, call.gate_columns, call.gates()}, "gate");
    }

    void normalisation() {
        call.mean = weight({3}, "mean");
        call.std = weight({3}, "std");
    }

    void lift(const char* name) {
        call.lift.weight = weight({call.channels, 3, 3, 3}, name);
        call.lift.bias = weight({call.channels}, name);
        call.lift.inputs = 3;
        call.lift.outputs = call.channels;
    }

    void pixel_attention() {
        const int64_t hidden = call.channels / 8;
        call.pixel[0] = weight({hidden, call.channels}, "pixel attention");
        call.pixel[1] = weight({hidden}, "pixel attention");
        call.pixel[2] = weight({1, hidden}, "pixel attention");
        call.pixel[3] = weight({1}, "pixel attention");
    }

    void convolution(const char* name, int outputs) {
        Convolution& convolution = call.convolution[call.convolutions++];
        convolution.weight = weight({outputs, call.channels, 3, 3}, name);
        convolution.bias = weight({outputs}, name);
        convolution.inputs = call.channels;
        convolution.outputs = outputs;
    }
    void convolution(const char* name) { convolution(name, call.channels); }

    // Three numbers a pixel, or a gain and three offsets.
    void post(const char* name) {
        const bool gain = weight_ < lists_.weights.size() && lists_.weights[weight_].size(0) == 4;
        convolution(name, gain ? 4 : 3);
    }

    void out_x() { call.out_x = output_of(next(lists_.outputs, output_, "x"), "x"); }

    // A map that the last or the last but one convolution writes, and its sums.
    void out(const char* name) {
        const int i = outs_++;
        call.out[i] = output_of(next(lists_.outputs, output_, name), name);
        const Tensor& sums = next(lists_.sums, sum_, "sums");
        STD_TORCH_CHECK(is_here(sums) && sums.is_contiguous() && sums.scalar_type() == ScalarType::Double &&
                            sums.dim() == 4 && sums.size(0) == call.batch && sums.size(1) == call.rows &&
                            sums.size(2) == call.cells() && sums.size(3) == call.channels,
                        "sums: contiguous float64 (B, rows, cells, C) on the maps' device expected");
        call.sums[i] = static_cast<double*>(sums.data_ptr());
    }

    void out_picture() { call.out[0] = picture_of(next(lists_.outputs, output_, "y"), 0, "y"); }

    void finish() const {
        STD_TORCH_CHECK(map_ == lists_.maps.size() && weight_ == lists_.weights.size() &&
                            output_ == lists_.outputs.size() && sum_ == lists_.sums.size(),
                        "stage: more maps, weights, outputs or sums than its kind has");
    }

    StageCall call{};

   private:
    const Lists& lists_;
    std::vector<Map> maps_;
    size_t map_ = 0, weight_ = 0, output_ = 0, sum_ = 0;
    int outs_ = 0;

    int64_t halo() const { return call.top + call.bottom; }

    static const Tensor& next(const std::vector<Tensor>& list, size_t& position, const char* name) {
        STD_TORCH_CHECK(position < list.size(), name, ": missing; a tensor as in the kind's contract expected");
        return list[position++];
    }

    // Whether a tensor is on the device of the call.
    bool is_here(const Tensor& tensor) const {
        return call.device < 0 ? tensor.is_cpu() : tensor.is_cuda() && tensor.get_device_index() == call.device;
    }

    const float* floats(const Tensor& tensor, const std::vector<int64_t>& shape, const char* name) const {
        bool fits = is_here(tensor) && tensor.is_contiguous() && tensor.scalar_type() == ScalarType::Float &&
                    tensor.dim() == int64_t(shape.size());
        for (size_t i = 0; fits && i < shape.size(); ++i) fits = tensor.size(i) == shape[i];
        STD_TORCH_CHECK(fits, name,
                        ": contiguous float32 on the maps' device, of the shape in the operator's contract, expected");
        return static_cast<const float*>(tensor.const_data_ptr());
    }

    const float* weight(const std::vector<int64_t>& shape, const char* name) {
        return floats(next(lists_.weights, weight_, name), shape, name);
    }

    Map rows_of(const Tensor& tensor, int64_t rows, int64_t width, int64_t channels, const char* name) const {
        STD_TORCH_CHECK(is_here(tensor) && tensor.dim() == 4 && tensor.size(0) == call.batch &&
                            tensor.size(1) == rows && tensor.size(2) == width && tensor.size(3) == channels,
                        name, ": (B, rows, W, C) on one device, of the shape in the operator's contract, expected");
        STD_TORCH_CHECK((tensor.stride(3) == 1 || channels == 1) && (tensor.stride(2) == channels || width == 1) &&
                            (tensor.stride(1) == width * channels || tensor.size(1) == 1),
                        name, ": the rows of an image must be contiguous");
        STD_TORCH_CHECK(call.device < 0 || channels == 3 || reinterpret_cast<uintptr_t>(tensor.data_ptr()) % 16 == 0,
                        name,
                        ": the kernels for GPUs read 16 bytes at a time; the first number must lie on such a boundary");
        return {tensor.data_ptr(), tensor.stride(0)};
    }

    // A map, or below a picture, of `extra` rows more than the outputs.
    Map map_of(const Tensor& tensor, int64_t extra, const char* name) const {
        STD_TORCH_CHECK(storage_of(tensor, name) == call.storage, name, ": all maps must have the same dtype");
        return rows_of(tensor, call.rows + extra, call.width, call.channels, name);
    }

    Map picture_of(const Tensor& tensor, int64_t extra, const char* name) const {
        STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Float, name, ": float32 expected");
        return rows_of(tensor, call.rows + extra, call.width, 3, name);
    }

    // An output. One that is part of a buffer too large for the caches is stored past them, if it lies on cache lines.
    Map output_of(const Tensor& tensor, const char* name) {
        constexpr int64_t kLarge = 6 << 20;  // four such buffers fill the last cache of a usual machine
        int64_t bytes = 0;
        TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_size(tensor.get(), &bytes));
        const Map map = map_of(tensor, 0, name);
        call.stream = call.stream && bytes >= kLarge && reinterpret_cast<uintptr_t>(map.data) % 64 == 0;
        return map;
    }
};

// ---- the kinds ------------------------------------------------------------------------------------------------------

struct Kind {
    const char* name;
    StageKind kind;
    void (*read)(Reader&);
};

void read_block(Reader& r) {
    r.convolution("conv1");
    r.convolution("conv2");
}

// What begins a group, or a block after another: its convolutions, x and z.
void read_beginning(Reader& r) {
    read_block(r);
    r.out_x();
    r.out("z");
}

void read_group(Reader& r) {
    for (const char* name : {"x", "z", "skip"}) r.map(name);
    r.gate();
    r.pixel_attention();
    r.convolution("conv");
    r.out("r");
}

const Kind kKinds[] = {
    {"head", StageKind::head,
     [](Reader& r) {
         r.picture();
         r.normalisation();
         r.lift("pre");
         read_beginning(r);
     }},
    {"block", StageKind::block,
     [](Reader& r) {
         for (const char* name : {"x", "z"}) r.map(name);
         r.gate();
         r.pixel_attention();
         read_beginning(r);
     }},
    {"group", StageKind::group,
     [](Reader& r) {
         read_group(r);
         read_block(r);
         r.out("z");
     }},
    {"last_group", StageKind::last_group, read_group},
    {"tail", StageKind::tail,
     [](Reader& r) {
         r.picture();
         r.maps("r");
         r.gate();
         r.normalisation();
         r.pixel_attention();
         r.convolution("post1");
         r.convolution("post2", 3);
         r.out_picture();
     }},
    {"down", StageKind::down,
     [](Reader& r) {
         r.crossing("a");
         r.down("down");
         read_beginning(r);
     }},
    {"up", StageKind::up,
     [](Reader& r) {
         r.crossing("m");
         r.map("skip");
         r.up("up");
         read_beginning(r);
     }},
    {"u_tail", StageKind::u_tail,
     [](Reader& r) {
         r.picture();
         for (const char* name : {"x", "z", "skip"}) r.map(name);
         r.gate();
         r.normalisation();
         r.pixel_attention();
         r.convolution("conv");
         r.post("post");
         r.out_picture();
     }},
};

void stage(const std::string& name, std::vector<Tensor> maps, std::optional<Tensor> gate, std::vector<Tensor> weights,
           std::vector<Tensor> outputs, std::vector<Tensor> sums, const std::vector<int64_t>& place) {
    const Lists lists{std::move(maps), std::move(gate), std::move(weights), std::move(outputs), std::move(sums)};
    for (const Kind& kind : kKinds)
        if (name == kind.name) {
            Reader reader(kind.kind, lists, place);
            kind.read(reader);
            reader.finish();
            return run(reader.call, lists.outputs[0]);
        }
    STD_TORCH_CHECK(false, "stage: there is no compiled kernel of the kind ", name);
}

}  // namespace
}  // namespace famkern

// For tensors on a GPU too: Triton has the operator there, and hands on what is better done here.
STABLE_TORCH_LIBRARY_IMPL(famkern, CPU, m) { m.impl("stage", TORCH_BOX(&famkern::stage)); }

#ifdef FAMKERN_CUDA
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
    int64_t most = 0;
    for (const auto kind :
         {famkern::StageKind::group, famkern::StageKind::down, famkern::StageKind::up}) {  // the greediest
        famkern::StageCall call{};
        call.kind = kind;
        call.channels = int(channels);
        call.batch = 1;
        call.rows = rows;
        call.width = width;
        call.cell = cell;
        call.convolutions =
            kind == famkern::StageKind::group ? famkern::kMaxConvolutions : famkern::kMaxConvolutions - 1;
        call.crossing.channels = kind == famkern::StageKind::group ? 0 : 64;
        for (auto& convolution : call.convolution) convolution = {nullptr, nullptr, call.channels, call.channels};
        const famkern::Workspace workspace(famkern::stage_kernels(), call, famkern::Columns(call));
        most = std::max(most, workspace.packed + threads * workspace.scratch + 2 * workspace.partial);
    }
    return most;
}
