// The current stream of a GPU, for operators that are registered through LibTorch's stable ABI.
#pragma once

#include <dlfcn.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/shim_utils.h>

namespace famkern {

// A torch without CUDA lacks the function, so it cannot be linked to.
inline void* current_stream(int device) {
    using Query = AOTITorchError (*)(int32_t, void**);
    static const auto query = [] {
        void* library = dlopen("libtorch_cuda.so", RTLD_NOLOAD | RTLD_LAZY);
        return reinterpret_cast<Query>(library ? dlsym(library, "aoti_torch_get_current_cuda_stream") : nullptr);
    }();
    STD_TORCH_CHECK(query != nullptr, "libtorch_cuda.so does not say what the current stream is");
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(query(device, &stream));
    return stream;
}

}  // namespace famkern
