// Reduced scale: a picture made small, local affine maps fitted on the small one, and applied to the large one.
//
//   reduce   rows of the picture --(weights of a triangle)--> one row of sums --(the same along it)--> a reduced row
//   fit      reduced row t --> moments, summed over 17 columns --> ring of 17 rows --> fit of row t - 8
//            --> a and b, summed over 17 columns --> ring of 17 rows --> row t - 16 of a and b
//   apply    reduced rows of a and b --(between columns)--> two wide rows each --(between rows)--> a x + b
//
// Every value is computed by the same operations in the same order whatever the cut, and no product is fused with a
// sum: results have the same bits on all instruction sets.
#include "cpu/scale.h"

#include <type_traits>

#include "cpu/rows.h"

namespace famkern::FAMKERN_ISA {
namespace {

template <class T>
constexpr bool kWhole = false;
template <>
constexpr bool kWhole<uint8_t> = true;
template <>
constexpr bool kWhole<uint16_t> = true;

template <class T, class A>
constexpr A kFullScale = kWhole<T> ? A(T(-1)) : A(1);

// Pieces of memory one after another.
struct Pieces {
    char* at;

    template <class T>
    T* take(int64_t count) {
        T* piece = reinterpret_cast<T*>(at);
        at += (count * int64_t(sizeof(T)) + 7) / 8 * 8;
        return piece;
    }
};

// How the numbers of a row lie: RGBRGB..., RR...GG...BB..., or otherwise.
enum class Order { interleaved, planar, other };

Order order_of(const Picture& picture) {
    if (picture.strides[1] == 3 && picture.strides[2] == 1) return Order::interleaved;
    return picture.strides[1] == 1 ? Order::planar : Order::other;
}

template <class T>
T* row_of(const Picture& picture, int64_t row) {
    return reinterpret_cast<T*>(picture.data) + row * picture.strides[0];
}

template <class T>
void copy_row(const Picture& picture, int64_t row, bool planar, T* to) {
    const T* from = row_of<T>(picture, row);
    for (int64_t c = 0; c < 3; ++c)
        for (int64_t x = 0; x < picture.width; ++x)
            to[planar ? c * picture.width + x : 3 * x + c] = from[x * picture.strides[1] + c * picture.strides[2]];
}

template <class T>
void copy_row(const T* from, bool planar, const Picture& picture, int64_t row) {
    T* to = row_of<T>(picture, row);
    for (int64_t c = 0; c < 3; ++c)
        for (int64_t x = 0; x < picture.width; ++x)
            to[x * picture.strides[1] + c * picture.strides[2]] = from[planar ? c * picture.width + x : 3 * x + c];
}

// Neighbouring numbers in a register.
template <class A>
struct Several {
    static constexpr int64_t kCount = kLanes * 4 / int64_t(sizeof(A));
    typedef A Numbers __attribute__((vector_size(4 * kLanes)));
    typedef int32_t Integers __attribute__((vector_size(4 * kCount)));
};

template <class A>
FAMKERN_INLINE typename Several<A>::Numbers load_several(const A* p) {
    typename Several<A>::Numbers v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

// Calls body(i, n) for every register of numbers i to i + n; the last may be filled up.
template <class A, class Body>
FAMKERN_INLINE void each_several(int64_t count, const Body& body) {
    constexpr int64_t kCount = Several<A>::kCount;
    int64_t i = 0;
    for (; i + kCount <= count; i += kCount) body(i, std::integral_constant<int64_t, kCount>());
    if (i < count) body(i, count - i);
}

template <class V>
FAMKERN_INLINE V clamp(V v) {
    v = v > 0 ? v : V{};
    return v < 1 ? v : V{} + 1;
}

// Four numbers: the three of a pixel, and one that nobody uses.
template <class A>
struct Four {
    typedef A Numbers __attribute__((vector_size(4 * sizeof(A))));
    Numbers v;

    static FAMKERN_INLINE Four load(const A* p) {
        Four four;
        std::memcpy(&four.v, p, sizeof four.v);
        return four;
    }
};

// ---- reduce --------------------------------------------------------------------------------------------------------

template <class T, class A>
void weigh(const T* __restrict from, A weight, int64_t count, bool first, A* __restrict sums) {
    if (first)
        for (int64_t i = 0; i < count; ++i) sums[i] = weight * A(from[i]);
    else
        for (int64_t i = 0; i < count; ++i) sums[i] += weight * A(from[i]);
}

template <class T, class A>
void reduce_rows(const ReduceCall& call, int64_t task, void* scratch) {
    const Triangle triangle{call.scale};
    const int64_t W = call.image.width, end_row = call.image_row + call.image.rows;
    const Order order = order_of(call.image);
    Pieces pieces{static_cast<char*>(scratch)};
    A* const sums = pieces.take<A>(3 * W + 4);
    T* const copied = pieces.take<T>(3 * W);
    sums[3 * W] = 0;  // loaded with the last pixel, and not used
    A weights[2 * kMostScale];
    for (int64_t place = 0; place < 2 * call.scale; ++place) weights[place] = A(triangle.weight(place));

    for (int64_t r = task * call.kRows; r < least((task + 1) * call.kRows, call.rows); ++r) {
        const int64_t i = call.row + r, first = most(triangle.first(i), call.image_row),
                      end = least(triangle.end(i), end_row);
        for (int64_t y = first; y < end; ++y) {
            const A weight = weights[y - triangle.first(i)];
            const T* from = row_of<T>(call.image, y - call.image_row);
            if (order == Order::planar) {
                for (int64_t c = 0; c < 3; ++c)
                    weigh(from + c * call.image.strides[2], weight, W, y == first, sums + c * W);
                continue;
            }
            if (order == Order::other) copy_row(call.image, y - call.image_row, false, copied), from = copied;
            weigh(from, weight, 3 * W, y == first, sums);
        }
        const A rows_total = A(triangle.total(i, first, end));
        A* out = static_cast<A*>(call.out) + r * call.width * 3;
        for (int64_t j = 0; j < call.width; ++j, out += 3) {
            const int64_t left = most(triangle.first(j), 0), right = least(triangle.end(j), W);
            const A* const weight = weights - triangle.first(j);
            Four<A> sum;
            if (order == Order::planar) {
                for (int64_t c = 0; c < 3; ++c) sum.v[c] = weight[left] * sums[c * W + left];
                for (int64_t x = left + 1; x < right; ++x)
                    for (int64_t c = 0; c < 3; ++c) sum.v[c] += weight[x] * sums[c * W + x];
            } else {
                sum.v = weight[left] * Four<A>::load(sums + 3 * left).v;
                for (int64_t x = left + 1; x < right; ++x) sum.v += weight[x] * Four<A>::load(sums + 3 * x).v;
            }
            const A total = rows_total * A(triangle.total(j, left, right)) * kFullScale<T, A>;
            sum.v /= total;
            for (int64_t c = 0; c < 3; ++c) out[c] = clamp<A>(sum.v[c]);
        }
    }
}

// ---- fit -----------------------------------------------------------------------------------------------------------

// Sums over kSide neighbours, three numbers apart, of `count` numbers; `from` has 3 (kSide - 1) more. Always added in
// the same tree.
FAMKERN_INLINE void sum_columns(const double* __restrict from, int64_t count, double* __restrict two,
                                double* __restrict four, double* __restrict to) {
    static_assert(kSide == 17, "two, four, eight, sixteen and one");
    for (int64_t i = 0; i < count + 42; ++i) two[i] = from[i] + from[i + 3];
    for (int64_t i = 0; i < count + 36; ++i) four[i] = two[i] + two[i + 6];
    for (int64_t i = 0; i < count + 24; ++i) two[i] = four[i] + four[i + 12];  // eight
    for (int64_t i = 0; i < count; ++i) to[i] = (two[i] + two[i + 24]) + from[i + 48];
}

// The last kSide rows of sums over columns, `planes` of them, and their sums.
struct Ring17 {
    double* data;
    int64_t planes, length;

    double* at(int64_t row, int64_t plane) const { return data + (row % kSide * planes + plane) * length; }

    void sum_rows(int64_t first, int64_t last, int64_t plane, int64_t count, double* to) const {
        const double* from[kSide];
        for (int64_t row = first; row <= last; ++row) from[row - first] = at(row, plane);
        constexpr int64_t kStep = 4 * Several<double>::kCount;  // four sums at once: each waits for its last addition
        for (int64_t i = 0; i < count; i += kStep) {            // up to kStep more than count, which there is room for
            Several<double>::Numbers sum[4];
            for (int part = 0; part < 4; ++part) sum[part] = load_several(from[0] + i + part * kStep / 4);
            for (int64_t row = 1; row <= last - first; ++row)
                for (int part = 0; part < 4; ++part) sum[part] += load_several(from[row] + i + part * kStep / 4);
            std::memcpy(to + i, sum, sizeof sum);
        }
    }
};

template <class A>
class Fit {
   public:
    Fit(const FitCall& call, int64_t task, void* scratch)
        : call(call),
          W(call.width),
          left(task % call.blocks() * call.kColumns),
          right(least(left + call.kColumns, W)),
          fit_left(most(left - kRadius, 0)),
          fit_right(least(right + kRadius, W)),
          first_row(task / call.blocks() * call.rows / call.runs),
          end_row((task / call.blocks() + 1) * call.rows / call.runs) {
        Pieces pieces{static_cast<char*>(scratch)};
        moments = {pieces.take<double>(kSide * call.kMoments * 3 * call.kFitted), call.kMoments, 3 * call.kFitted};
        means = {pieces.take<double>(kSide * call.kMeans * 3 * call.kColumns), call.kMeans, 3 * call.kColumns};
        for (double*& row : rows) row = pieces.take<double>(3 * (call.kRead + call.kSpare));
    }

    void run() {
        const int64_t last_input = call.input_rows - 1;
        int64_t next = most(first_row + call.top - 2 * kRadius, 0), fitted = most(first_row + call.top - kRadius, 0);
        for (int64_t r = first_row; r < end_row; ++r) {
            const int64_t at = r + call.top;
            for (; fitted <= least(at + kRadius, last_input); ++fitted) {
                for (; next <= least(fitted + kRadius, last_input); ++next) add_moments(next);
                fit_row(fitted);
            }
            store_row(r, most(at - kRadius, 0), least(at + kRadius, last_input));
        }
    }

   private:
    // product(i), i a number of a row, summed over the windows of columns first to end, which lie in the ring then.
    template <class Product>
    FAMKERN_INLINE void add(const Ring17& ring, int64_t row, int64_t plane, int64_t first, int64_t end,
                            const Product& product) {
        double* const filled = rows[0];
        const int64_t from = most(first - kRadius, 0), to = least(end + kRadius, W), before = from - (first - kRadius),
                      count = to - from;
        std::memset(filled, 0, size_t(3 * before) * sizeof(double));
        for (int64_t i = 0; i < 3 * count; ++i) filled[3 * before + i] = product(3 * from + i);
        std::memset(filled + 3 * (before + count), 0,
                    size_t(3 * (end - first + 2 * kRadius - before - count)) * sizeof(double));
        sum_columns(filled, 3 * (end - first), rows[1], rows[2], ring.at(row, plane));
    }

    void add_moments(int64_t row) {
        const A* const x = static_cast<const A*>(call.image) + row * 3 * W;
        const A* const y = static_cast<const A*>(call.target) + row * 3 * W;
        const auto each = [&](auto weight) __attribute__((always_inline)) {
            add(moments, row, 0, fit_left, fit_right, [&](int64_t i) { return weight(i) * double(x[i]); });
            add(moments, row, 1, fit_left, fit_right, [&](int64_t i) { return weight(i) * double(y[i]); });
            add(moments, row, 2, fit_left, fit_right,
                [&](int64_t i) { return weight(i) * (double(x[i]) * double(y[i])); });
            add(moments, row, 3, fit_left, fit_right,
                [&](int64_t i) { return weight(i) * (double(x[i]) * double(x[i])); });
        };
        if (call.weights == nullptr) return each([](int64_t) { return 1.0; });
        const A* const v = weights_of(row);
        each([v](int64_t i) { return double(v[i / 3]); });
        add(moments, row, 4, fit_left, fit_right, [v](int64_t i) { return double(v[i / 3]); });
    }

    const A* weights_of(int64_t row) const { return static_cast<const A*>(call.weights) + row * W; }

    // The weights of windows of rows first to last around columns left, left + 1, ...
    FAMKERN_INLINE void sum_weights(const Ring17& ring, int64_t plane, int64_t first, int64_t last, int64_t begin,
                                    int64_t end, double* to) const {
        if (call.weights != nullptr) return ring.sum_rows(first, last, plane, 3 * (end - begin), to);
        for (int64_t x = begin; x < end; ++x)
            for (int64_t c = 0; c < 3; ++c)
                to[3 * (x - begin) + c] =
                    double((last - first + 1) * (least(x + kRadius, W - 1) - most(x - kRadius, 0) + 1));
    }

    void fit_row(int64_t row) {
        const int64_t first = most(row - kRadius, 0), last = least(row + kRadius, call.input_rows - 1);
        const int64_t count = 3 * (fit_right - fit_left);
        double *const a = rows[3], *const b = rows[4], *const xy = rows[5], *const xx = rows[6], *const n = rows[1];
        moments.sum_rows(first, last, 0, count, a);
        moments.sum_rows(first, last, 1, count, b);
        moments.sum_rows(first, last, 2, count, xy);
        moments.sum_rows(first, last, 3, count, xx);
        sum_weights(moments, 4, first, last, fit_left, fit_right, n);
        for (int64_t i = 0; i < count; i += Several<double>::kCount) {
            using Numbers = Several<double>::Numbers;
            const Numbers sum_of_weights = load_several(n + i);
            const Numbers weight = sum_of_weights > 0 ? sum_of_weights : Numbers{} + 1;  // without any, all sums are 0
            const Numbers mean = load_several(a + i) / weight, target = load_several(b + i) / weight;
            const Numbers variance = load_several(xx + i) / weight - mean * mean;
            const Numbers covariance = load_several(xy + i) / weight - mean * target;
            const Numbers slope = variance > kFlat ? covariance / (variance + kEpsilon) : Numbers{};
            const Numbers offset = target - slope * mean;
            std::memcpy(a + i, &slope, sizeof slope);
            std::memcpy(b + i, &offset, sizeof offset);
        }
        if (call.weights == nullptr) {
            add(means, row, 0, left, right, [&](int64_t i) { return a[i - 3 * fit_left]; });
            add(means, row, 1, left, right, [&](int64_t i) { return b[i - 3 * fit_left]; });
            return;
        }
        const A* const v = weights_of(row);
        add(means, row, 0, left, right, [&](int64_t i) { return double(v[i / 3]) * a[i - 3 * fit_left]; });
        add(means, row, 1, left, right, [&](int64_t i) { return double(v[i / 3]) * b[i - 3 * fit_left]; });
        add(means, row, 2, left, right, [&](int64_t i) { return double(v[i / 3]); });
    }

    void store_row(int64_t r, int64_t first, int64_t last) const {
        const int64_t count = 3 * (right - left);
        double *const sum = rows[1], *const n = rows[2];
        sum_weights(means, 2, first, last, left, right, n);
        for (int which = 0; which < 2; ++which) {
            means.sum_rows(first, last, which, count, sum);
            A* const out = static_cast<A*>(call.out[which]) + (r * W + left) * 3;
            for (int64_t i = 0; i < count; ++i) out[i] = A(n[i] > 0 ? sum[i] / n[i] : 1.0 - which);
        }
    }

    const FitCall& call;
    const int64_t W, left, right, fit_left, fit_right, first_row, end_row;
    Ring17 moments, means;
    double* rows[7];
};

// ---- apply ---------------------------------------------------------------------------------------------------------

// A reduced row of a or b, at every pixel of the picture's rows, in the order of theirs.
template <class A>
void widen_row(const ApplyCall& call, const A* row, bool planar, A* copied, A* to) {
    const int64_t W = call.image.width, w = call.map_width;
    std::memcpy(copied, row, size_t(3 * w) * sizeof(A));  // for memory behind the last pixel may be nobody's
    copied[3 * w] = 0;
    Between at(0, call.scale, w - 1);
    for (int64_t x = 0; x < W; ++x, at.next()) {
        const A part = A(at.part()) / A(2 * call.scale);
        const Four<A> low = Four<A>::load(copied + 3 * at.low()), high = Four<A>::load(copied + 3 * at.high());
        const typename Four<A>::Numbers between = low.v + part * (high.v - low.v);
        if (planar)
            for (int64_t c = 0; c < 3; ++c) to[c * W + x] = between[c];
        else
            std::memcpy(to + 3 * x, &between, sizeof between);  // of the next pixel the first number, overwritten then
    }
}

template <class T, class A, class Count>
FAMKERN_INLINE typename Several<A>::Numbers load_unit(const T* from, Count count) {
    T filled[Several<A>::kCount] = {};
    std::memcpy(filled, from, size_t(count) * sizeof(T));
    typedef T Read __attribute__((vector_size(Several<A>::kCount * sizeof(T))));
    Read read;
    std::memcpy(&read, filled, sizeof read);
    if constexpr (kWhole<T>) {
        const auto whole = __builtin_convertvector(read, typename Several<A>::Integers);
        return __builtin_convertvector(whole, typename Several<A>::Numbers) / kFullScale<T, A>;
    } else {
        return __builtin_convertvector(read, typename Several<A>::Numbers);
    }
}

template <class T, class A, class Count>
FAMKERN_INLINE void store_unit(typename Several<A>::Numbers v, Count count, T* to) {
    typedef T Written __attribute__((vector_size(Several<A>::kCount * sizeof(T))));
    Written written;
    if constexpr (kWhole<T>) {
        constexpr A kRound = sizeof(A) == 4 ? A(0x1.8p23) : A(0x1.8p52);  // leaves no place for fractions: half to even
        const auto whole =
            __builtin_convertvector((v * kFullScale<T, A> + kRound) - kRound, typename Several<A>::Integers);
        written = __builtin_convertvector(whole, Written);
    } else {
        written = __builtin_convertvector(v, Written);
    }
    std::memcpy(to, &written, size_t(count) * sizeof(T));
}

template <bool kMix, class T, class A>
void apply_run(const T* image, const A* a_low, const A* a_high, const A* b_low, const A* b_high, A part, A strength,
               int64_t count, T* out) {
    each_several<A>(count, [&](int64_t i, auto n) __attribute__((always_inline)) {
        using Numbers = typename Several<A>::Numbers;
        const Numbers low = load_several(a_low + i), below = load_several(b_low + i);
        const Numbers a = low + part * (load_several(a_high + i) - low);
        const Numbers b = below + part * (load_several(b_high + i) - below);
        const Numbers x = load_unit<T, A>(image + i, n);
        Numbers y = clamp(a * x + b);
        if constexpr (kMix) y = clamp(x + strength * (y - x));
        store_unit<T, A>(y, n, out + i);
    });
}

template <class T, class A>
void apply_rows(const ApplyCall& call, int64_t task, void* scratch) {
    const int64_t W = call.image.width, last = call.map_row + call.map_rows - 1;
    const Order order = order_of(call.image);
    const bool planar = order == Order::planar, direct = order_of(call.out) == (planar ? order : Order::interleaved);
    Pieces pieces{static_cast<char*>(scratch)};
    A* wide[2][2];  // a and b: the row below and the row above
    for (auto& map : wide)
        for (A*& row : map) row = pieces.take<A>(3 * W + kLanes);  // a whole register from any number on
    A* const copied = pieces.take<A>(3 * call.map_width + 1);
    T *const in = pieces.take<T>(3 * W), *const result = pieces.take<T>(3 * W);
    int64_t held[2] = {-1, -1};

    for (int64_t r = task * call.kRows; r < least((task + 1) * call.kRows, call.image.rows); ++r) {
        const Between at(call.row + r, call.scale, last);
        const int64_t wanted[2] = {at.low(), at.high()};
        if (held[1] == wanted[0] && held[0] != wanted[0]) {
            for (auto& map : wide) {
                A* const row = map[0];
                map[0] = map[1], map[1] = row;
            }
            held[0] = wanted[0], held[1] = -1;
        }
        for (int side = 0; side < 2; ++side)
            if (held[side] != wanted[side]) {
                for (int which = 0; which < 2; ++which)
                    widen_row(
                        call,
                        static_cast<const A*>(call.maps[which]) + (wanted[side] - call.map_row) * call.map_width * 3,
                        planar, copied, wide[which][side]);
                held[side] = wanted[side];
            }
        const T* from = row_of<T>(call.image, r);
        if (order == Order::other) copy_row(call.image, r, false, in), from = in;
        T* const to = direct ? row_of<T>(call.out, r) : result;
        const A part = A(at.part()) / A(2 * call.scale), strength = A(call.strength);
        const int64_t runs = planar ? 3 : 1, length = 3 * W / runs;
        for (int64_t run = 0; run < runs; ++run) {
            const int64_t in_at = run * call.image.strides[2], map_at = run * W,
                          out_at = run * (direct ? call.out.strides[2] : W);
            const auto apply = strength == 1 ? apply_run<false, T, A> : apply_run<true, T, A>;
            apply(from + in_at, wide[0][0] + map_at, wide[0][1] + map_at, wide[1][0] + map_at, wide[1][1] + map_at,
                  part, strength, length, to + out_at);
        }
        if (!direct) copy_row(result, planar, call.out, r);
    }
}

// ---- types ---------------------------------------------------------------------------------------------------------

template <class Body>
FAMKERN_INLINE void with_depth(Depth depth, const Body& body) {  // body(a number of the depth)
    switch (depth) {
        case Depth::uint8:
            return body(uint8_t());
        case Depth::uint16:
            return body(uint16_t());
        case Depth::float32:
            return body(float());
        default:
            return body(double());
    }
}

void reduce(const ReduceCall& call, int64_t task, void* scratch) {
    with_depth(call.image.depth, [&](auto number) {
        using T = decltype(number);
        call.wide ? reduce_rows<T, double>(call, task, scratch) : reduce_rows<T, float>(call, task, scratch);
    });
}

void fit(const FitCall& call, int64_t task, void* scratch) {
    call.wide ? Fit<double>(call, task, scratch).run() : Fit<float>(call, task, scratch).run();
}

void apply(const ApplyCall& call, int64_t task, void* scratch) {
    with_depth(call.image.depth, [&](auto number) {
        using T = decltype(number);
        call.wide ? apply_rows<T, double>(call, task, scratch) : apply_rows<T, float>(call, task, scratch);
    });
}

}  // namespace

extern const ScaleKernels scale_kernels;
const ScaleKernels scale_kernels = {reduce, fit, apply};

}  // namespace famkern::FAMKERN_ISA
