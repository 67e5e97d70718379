// The two small matrix products of the affinity kernels, over tiles that lie in the L1 cache.
//
//     products   out[i][j] += sum over x of a[i][x] * b[j][x]        along positions, into float64
//     combine    out[i][x]  = sum over k of w[i][k] * m[k][x]        along channels
//
// Both hold a block of 4 x 2 results in registers. The order of every sum is fixed by kLanes, which is the same for
// every instruction set, and no multiplication is fused with an addition: all of them give the same bits.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

namespace famkern::FAMKERN_ISA {
namespace {

#if defined(FAMKERN_ISA_AVX512)
constexpr int kVectorBytes = 64;
#elif defined(FAMKERN_ISA_AVX2)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T>
struct Simd {
    typedef T Vector __attribute__((vector_size(kVectorBytes)));
    static constexpr int kWidth = kVectorBytes / sizeof(T);  // elements in a register
    static constexpr int kLanes = 64 / sizeof(T);            // partial sums of a product along positions
};

template <class T>
inline typename Simd<T>::Vector load(const T* p) {
    typename Simd<T>::Vector v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

// Scratch memory of a chunk, on cache lines, zeroed.
template <class T>
class Scratch {
   public:
    explicit Scratch(int64_t count) {
        const size_t bytes = (size_t(count) * sizeof(T) + 63) / 64 * 64;
        data_ = static_cast<T*>(std::aligned_alloc(64, bytes == 0 ? 64 : bytes));
        if (data_ == nullptr) throw std::bad_alloc();
        std::memset(data_, 0, bytes);
    }
    ~Scratch() { std::free(data_); }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    operator T*() { return data_; }

   private:
    T* data_;
};

inline int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }
inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// a: [rows_a, stride], b: [rows_b, stride], out: [rows_a, rows_b]. rows_a % 4 == 0, rows_b % 2 == 0,
// length % kLanes == 0. `upper`: a and b are the same, blocks wholly below the diagonal are left out.
template <class T>
void products(const T* a, int64_t rows_a, const T* b, int64_t rows_b, int64_t stride, int64_t length, bool upper,
              double* out) {
    using Vector = typename Simd<T>::Vector;
    constexpr int kLanes = Simd<T>::kLanes, kWidth = Simd<T>::kWidth;
    for (int64_t i = 0; i < rows_a; i += 4) {
        for (int64_t j = upper ? i : 0; j < rows_b; j += 2) {
            double sums[4][2] = {};
            for (int part = 0; part < kLanes; part += kWidth) {  // narrower registers take several walks
                Vector acc[4][2] = {};
                for (int64_t x = part; x < length; x += kLanes) {
                    const Vector b0 = load(b + j * stride + x), b1 = load(b + (j + 1) * stride + x);
                    for (int r = 0; r < 4; ++r) {
                        const Vector v = load(a + (i + r) * stride + x);
                        acc[r][0] += v * b0;
                        acc[r][1] += v * b1;
                    }
                }
                for (int lane = 0; lane < kWidth; ++lane)
                    for (int r = 0; r < 4; ++r)
                        for (int s = 0; s < 2; ++s) sums[r][s] += double(acc[r][s][lane]);
            }
            for (int r = 0; r < 4; ++r)
                for (int s = 0; s < 2; ++s) out[(i + r) * rows_b + j + s] += sums[r][s];
        }
    }
}

// w: [rows, depth], m: [depth, stride], out: [rows, stride]. rows % 4 == 0, length % kLanes == 0.
template <class T>
void combine(const T* w, int64_t rows, int64_t depth, const T* m, int64_t stride, int64_t length, T* out) {
    using Vector = typename Simd<T>::Vector;
    constexpr int kWidth = Simd<T>::kWidth;
    for (int64_t i = 0; i < rows; i += 4) {
        for (int64_t x = 0; x < length; x += kWidth) {
            Vector acc[4] = {};
            for (int64_t k = 0; k < depth; ++k) {
                const Vector v = load(m + k * stride + x);
                for (int r = 0; r < 4; ++r) acc[r] += w[(i + r) * depth + k] * v;
            }
            for (int r = 0; r < 4; ++r) std::memcpy(out + (i + r) * stride + x, &acc[r], sizeof(Vector));
        }
    }
}

}  // namespace
}  // namespace famkern::FAMKERN_ISA
