// Which instantiation of the CPU kernels runs: the widest that this CPU has, or the one FAMKERN_CPU_ISA names.
//
// Every file in csrc/cpu/kernels is compiled once per instruction set, in the namespace famkern::FAMKERN_ISA, and
// defines one constant table of function pointers there. FAMKERN_KERNELS(Table, name) declares those tables and
// `const Table& name()`, which picks one of them.
//
// A kernel file must not instantiate standard-library templates that the compiler may emit as functions (std::vector,
// std::sort): the linker keeps ONE copy of such a function, perhaps the one with AVX-512 in it, for all instantiations.
#pragma once

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

// What is compiled for wider instruction sets, unless the build leaves them out (FAMKERN_ISAS of setup.py).
#if defined(__x86_64__) && !defined(FAMKERN_WITHOUT_AVX2)
#define FAMKERN_AVX2(...) __VA_ARGS__
#else
#define FAMKERN_AVX2(...)
#endif
#if defined(__x86_64__) && !defined(FAMKERN_WITHOUT_AVX512)
#define FAMKERN_AVX512(...) __VA_ARGS__
#else
#define FAMKERN_AVX512(...)
#endif

namespace famkern {

enum class InstructionSet { portable, avx2, avx512 };

constexpr const char* kInstructionSetNames[] = {"portable", "avx2", "avx512"};

inline bool supported(InstructionSet isa) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    FAMKERN_AVX2(if (isa == InstructionSet::avx2) return avx2;)
    FAMKERN_AVX512(if (isa == InstructionSet::avx512) return avx2 && __builtin_cpu_supports("avx512f") &&
                       __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                       __builtin_cpu_supports("avx512bw");)
    (void)avx2;
#endif
    return isa == InstructionSet::portable;
}

inline InstructionSet choose_instruction_set() {
    constexpr InstructionSet all[] = {InstructionSet::avx512, InstructionSet::avx2, InstructionSet::portable};
    const char* wanted = std::getenv("FAMKERN_CPU_ISA");
    std::string accepted;
    for (InstructionSet isa : all) {  // widest first
        if (!supported(isa)) continue;
        const char* name = kInstructionSetNames[int(isa)];
        if (wanted == nullptr || *wanted == '\0' || std::strcmp(wanted, name) == 0) return isa;
        accepted = std::string(name) + " " + accepted;
    }
    throw std::runtime_error(std::string("FAMKERN_CPU_ISA=") + wanted +
                             " is not available here; accepted: " + accepted + "none");
}

inline InstructionSet instruction_set() {
    static const InstructionSet chosen = choose_instruction_set();  // the environment is read once
    return chosen;
}

}  // namespace famkern

#define FAMKERN_KERNELS(Table, name)                                           \
    namespace portable {                                                       \
    extern const Table name;                                                   \
    }                                                                          \
    FAMKERN_AVX2(namespace avx2 { extern const Table name; })                  \
    FAMKERN_AVX512(namespace avx512 { extern const Table name; })              \
    inline const Table& name() {                                               \
        switch (instruction_set()) {                                           \
            FAMKERN_AVX512(case InstructionSet::avx512 : return avx512::name;) \
            FAMKERN_AVX2(case InstructionSet::avx2 : return avx2::name;)       \
            default:                                                           \
                return portable::name;                                         \
        }                                                                      \
    }
