// What the native tests share: checks, instruction sets, random numbers, numbers in memory. These tests know no torch,
// so that they can be compiled for a processor that is not here and run under an emulator, or with sanitizers.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "cpu/affinity.h"
#include "cpu/dispatch.h"
#include "cpu/formats.h"

namespace famkern::test {

void test_stages();
void test_convolution();
void test_affinity();
void test_scale();

inline int checks = 0, failures = 0;

// A part of the cases, in which every value of each of their properties still comes up: for slow emulators.
inline bool quick = false;
inline bool left_out(int one, int other, int of) { return quick && (one + other) % of != 0; }

// Counts a check, and prints what it is about if it does not hold.
inline void expect(bool holds, const std::string& what) {
    ++checks;
    if (!holds && ++failures <= 40) std::fprintf(stderr, "FAILED %s\n", what.c_str());
}

// ---- instruction sets ----------------------------------------------------------------------------------------------

inline std::vector<InstructionSet> instruction_sets() {  // of this machine
    std::vector<InstructionSet> sets;
    for (InstructionSet isa : {InstructionSet::portable, InstructionSet::avx2, InstructionSet::avx512})
        if (supported(isa)) sets.push_back(isa);
    return sets;
}

inline std::string name_of(InstructionSet isa) { return kInstructionSetNames[int(isa)]; }

// One of the tables that FAMKERN_KERNELS declared.
#define FAMKERN_TABLE(name, isa)                                                                      \
    (FAMKERN_AVX512((isa) == famkern::InstructionSet::avx512 ? famkern::avx512::name :) FAMKERN_AVX2( \
        (isa) == famkern::InstructionSet::avx2 ? famkern::avx2::name :)((void)(isa), famkern::portable::name))

// ---- numbers -------------------------------------------------------------------------------------------------------

using Doubles = std::vector<double>;
using Floats = std::vector<float>;

// The same numbers on every machine, unlike the distributions of <random>.
class Random {
   public:
    explicit Random(uint64_t seed) : state_(seed) {}
    double uniform() {  // in [0, 1)
        state_ = state_ * 6364136223846793005u + 1442695040888963407u;
        return double(state_ >> 40) * 0x1p-24;
    }
    double operator()() { return 3.4 * uniform() - 1.7; }  // of mean 0 and variance 1
    Floats floats(int64_t count, double scale = 1) {
        Floats values(count);
        for (float& value : values) value = float(scale * (*this)());
        return values;
    }

   private:
    uint64_t state_;
};

constexpr const char* kTypeNames[] = {"float32", "float64", "float16", "bfloat16"};

template <class Body>
auto with_type(Type type, const Body& body) {  // body(a number of the type)
    switch (type) {
        case Type::float32:
            return body(float());
        case Type::float64:
            return body(double());
        case Type::float16:
            return body(FAMKERN_ISA::Half());
        default:
            return body(FAMKERN_ISA::BFloat16());
    }
}

inline int64_t bytes_of(Type type) {
    return with_type(type, [](auto number) { return int64_t(sizeof number); });
}

inline double rounded(double value, Type type) {
    return with_type(type, [&](auto number) {
        FAMKERN_ISA::narrow(value, number);
        return double(FAMKERN_ISA::widen(number));
    });
}

// So many numbers and not one more, where a sanitizer sees what lies beyond; on cache lines, all NaN at first.
class Memory {
   public:
    Memory(Type type, int64_t count)
        : type_(type), count_(count), data_(static_cast<char*>(::operator new[](size_t(bytes()), kLine))) {
        std::memset(data_.get(), 0xff, size_t(bytes()));
    }
    explicit Memory(int64_t bytes) : Memory(Type::float32, bytes / 4) {}

    double read(int64_t at) const {
        return with_type(type_, [&](auto number) {
            std::memcpy(&number, data_.get() + at * int64_t(sizeof number), sizeof number);
            return double(FAMKERN_ISA::widen(number));
        });
    }
    void write(int64_t at, double value) {
        with_type(type_, [&](auto number) {
            FAMKERN_ISA::narrow(value, number);
            std::memcpy(data_.get() + at * int64_t(sizeof number), &number, sizeof number);
        });
    }
    Doubles all() const {
        Doubles values(count_);
        for (int64_t i = 0; i < count_; ++i) values[i] = read(i);
        return values;
    }
    template <class T = void>
    T* data() const {
        return static_cast<T*>(static_cast<void*>(data_.get()));
    }

   private:
    static constexpr std::align_val_t kLine{64};
    struct Free {
        void operator()(char* data) const { ::operator delete[](data, kLine); }
    };
    int64_t bytes() const { return count_ * bytes_of(type_); }

    Type type_;
    int64_t count_;
    std::unique_ptr<char[], Free> data_;
};

}  // namespace famkern::test
