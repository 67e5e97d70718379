// CPU feature detection, for the run-time choice of kernels and for `famkern info`. Knows no torch.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>

namespace {

// Name -> whether this CPU *and its operating system* support it (the builtins check that the wide registers are
// saved).
std::map<std::string, bool> features() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    return {
        {"avx2", bool(__builtin_cpu_supports("avx2"))},         {"fma", bool(__builtin_cpu_supports("fma"))},
        {"f16c", bool(__builtin_cpu_supports("f16c"))},         {"avx512f", bool(__builtin_cpu_supports("avx512f"))},
        {"avx512vl", bool(__builtin_cpu_supports("avx512vl"))}, {"avx512dq", bool(__builtin_cpu_supports("avx512dq"))},
        {"avx512bw", bool(__builtin_cpu_supports("avx512bw"))},
    };
#elif defined(__aarch64__)
    return {{"neon", true}};
#else
    return {};
#endif
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
    m.doc() = "CPU feature detection for famkern";
    m.def("features", &features, "dict: instruction set -> supported by this CPU and operating system");
}
