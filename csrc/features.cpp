// For Python's ctypes: what this CPU and its operating system have (the builtins check that wide registers are saved),
// the instruction set of the kernels in use, and what is wrong with FAMKERN_CPU_ISA.
#include <stdexcept>
#include <string>

#include "cpu/dispatch.h"

// Names of the vector extensions that the kernels are made for, with commas between them.
extern "C" __attribute__((visibility("default"))) const char* famkern_cpu_features() {
    static const std::string answer = [] {
        std::string names;
#if defined(__x86_64__)
        __builtin_cpu_init();
#define FAMKERN_FEATURE(name) \
    if (__builtin_cpu_supports(name)) names += names.empty() ? name : ", " name;
        FAMKERN_FEATURE("avx2")
        FAMKERN_FEATURE("avx512bw")
        FAMKERN_FEATURE("avx512dq")
        FAMKERN_FEATURE("avx512f")
        FAMKERN_FEATURE("avx512vl")
        FAMKERN_FEATURE("f16c")
        FAMKERN_FEATURE("fma")
#undef FAMKERN_FEATURE
#elif defined(__aarch64__)
        names = "neon";
#endif
        return names;
    }();
    return answer.c_str();
}

// The name of the instruction set in use, or a complaint about FAMKERN_CPU_ISA.
extern "C" __attribute__((visibility("default"))) const char* famkern_instruction_set() {
    static const std::string answer = [] {
        try {
            return std::string(famkern::kInstructionSetNames[int(famkern::instruction_set())]);
        } catch (const std::runtime_error& error) {
            return std::string(error.what());
        }
    }();
    return answer.c_str();
}
