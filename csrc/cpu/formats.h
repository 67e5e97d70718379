// Numbers as they lie in memory, to and from float64: float64, float32, float16, bfloat16. One element, or a register
// of neighbours. Half-precision formats are taken as bit patterns, which any instruction set can vectorise.
#pragma once

#include <cmath>
#include <type_traits>

#include "cpu/products.h"

namespace famkern::FAMKERN_ISA {
namespace {

struct Half {
    uint16_t bits;
};
struct BFloat16 {
    uint16_t bits;
};

template <class To, class From>
inline To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "a value has as many bits as its pattern");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

inline double widen(double v) { return v; }
inline double widen(float v) { return v; }
inline double widen(BFloat16 v) { return same_bits<float>(uint32_t(v.bits) << 16); }
inline double widen(Half v) {
    const int32_t rest = int32_t(v.bits & 0x7fff) << 13;        // exponent and fraction at float32's places
    const float magnitude = same_bits<float>(rest) * 0x1p112f;  // the exponent's bias is 15 there and 127 here
    const int32_t finite = same_bits<int32_t>(magnitude);
    const int32_t bits = rest >= 0x0f800000 ? rest | 0x7f800000 : finite;  // infinity and NaN
    return same_bits<float>(bits | int32_t(uint32_t(v.bits & 0x8000) << 16));
}

inline void narrow(double v, double& out) { out = v; }
inline void narrow(double v, float& out) { out = float(v); }
inline void narrow(double v, BFloat16& out) {  // to nearest, ties to even
    const uint32_t bits = same_bits<uint32_t>(float(v));
    out.bits = v != v ? 0x7fc0 : uint16_t((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}
inline void narrow(double v, Half& out) {  // to nearest, ties to even
    const uint32_t bits = same_bits<uint32_t>(float(v));
    const uint32_t sign = bits >> 16 & 0x8000u, rest = bits & 0x7fffffffu;
    const float magnitude = same_bits<float>(rest);
    uint32_t half;
    if (v != v) {
        half = 0x7e00;
    } else if (magnitude >= 65520.0f) {
        half = 0x7c00;
    } else if (magnitude < 0x1p-14f) {  // a subnormal is a whole number of 2^-24
        half = uint32_t(std::nearbyint(magnitude * 0x1p24f));
    } else {
        half = (rest + 0xfffu + (rest >> 13 & 1) - (112u << 23)) >> 13;
    }
    out.bits = uint16_t(sign | half);
}

// Neighbours as float64, a register of them.
template <class In>
inline Simd<double>::Vector widen_vector(const In* source) {
    using Vector = Simd<double>::Vector;
    constexpr int kWidth = Simd<double>::kWidth;
    using Pattern = std::conditional_t<sizeof(In) == 2, uint16_t, In>;
    typedef Pattern Narrow __attribute__((vector_size(kWidth * sizeof(In))));
    typedef int32_t Bits __attribute__((vector_size(kWidth * sizeof(int32_t))));
    typedef float Floats __attribute__((vector_size(kWidth * sizeof(float))));
    Narrow narrow;
    std::memcpy(&narrow, source, sizeof narrow);
    if constexpr (std::is_same_v<In, BFloat16>) {
        return __builtin_convertvector(same_bits<Floats>(__builtin_convertvector(narrow, Bits) << 16), Vector);
    } else if constexpr (std::is_same_v<In, Half>) {  // as widen(Half)
        const Bits bits = __builtin_convertvector(narrow, Bits), rest = (bits & 0x7fff) << 13;
        const Bits finite = same_bits<Bits>(same_bits<Floats>(rest) * 0x1p112f);
        const Bits magnitude = rest >= 0x0f800000 ? rest | 0x7f800000 : finite;
        return __builtin_convertvector(same_bits<Floats>(magnitude | (bits & 0x8000) << 16), Vector);
    } else {
        return __builtin_convertvector(narrow, Vector);
    }
}

}  // namespace
}  // namespace famkern::FAMKERN_ISA
