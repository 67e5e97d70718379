// The feature affinity on an NVIDIA GPU, forward and backward in one pass over the feature maps each.
//
//     student, teacher (C, H, W)      a thread has a position of the pooled grid: the windows of all channels
//         | means of windows
//     d = s - t, e = s + t  ------->  maps (2 C, N), rounded to float32
//         | a tile of positions in shared memory, float64
//     sum of m_i m_j        ------->  partial (blocks, entries i <= j); a small kernel adds up the blocks
//
// A window is summed in float32 with the rounding errors kept beside the sum (Knuth's two-sum), as even GPUs with slow
// float64 do fast; what is left is float64. Windows are read 16 bytes at a time where they lie on such boundaries, then
// 8, then number by number.
//
// The same bits on every run and every device: the cut into blocks depends on the grid alone, a thread adds the same
// products in the same order, and so do the blocks' sums meet. No atomics.
#include "cuda/affinity.h"
#include "cuda/device.h"

namespace famkern::cuda {
namespace {

constexpr int kPositions = 256;         // of a tile: threads of a block
constexpr int kPitch = kPositions + 1;  // of its rows in shared memory, so that these begin in different banks
constexpr int kMostRows = 2 * int(kMostChannels);
constexpr int64_t kMostBlocks = 512;  // of an image: a few for each multiprocessor

FAMKERN_HOST_DEVICE constexpr int entries_of(int rows) { return rows * (rows + 1) / 2; }
static_assert(entries_of(kMostRows) <= kPositions, "a thread has one entry of the Gram matrix at most");

// ---- windows -------------------------------------------------------------------------------------------------------

template <int kBytes>
struct alignas(kBytes) Words {
    uint32_t word[kBytes / 4];
};

// Number i of some that lie in words.
template <class T, int kBytes>
FAMKERN_DEVICE float number_of(const Words<kBytes>& words, int i) {
    if constexpr (sizeof(T) == 4)
        return float_of(words.word[i]);
    else
        return i % 2 == 0 ? low_of<T>(words.word[i / 2]) : high_of<T>(words.word[i / 2]);
}

template <int kBytes>
struct Bytes {
    static constexpr int kValue = kBytes;
};

FAMKERN_DEVICE float number_of(float value) { return value; }
FAMKERN_DEVICE float number_of(Half value) { return value_of(value); }
FAMKERN_DEVICE float number_of(BFloat value) { return value_of(value); }

FAMKERN_DEVICE float narrow(float value, float) { return value; }
template <class T>
FAMKERN_DEVICE T narrow(float value, T) {
    return {bits_of(value, T())};
}

// A word full of the same number.
FAMKERN_DEVICE uint32_t words_of(float value, float) { return word_of(value); }
template <class T>
FAMKERN_DEVICE uint32_t words_of(float value, T) {
    return pack<T>(value, value);
}

// A sum and the rounding errors that it made.
struct Sum {
    float total = 0, error = 0;

    FAMKERN_DEVICE void add(float value) {
        const float added = total + value, part = added - total;
        error += (total - (added - part)) + (value - part);
        total = added;
    }
};

// The mean of a window, read kBytes at a time, or number by number.
template <class T, int kBytes>
FAMKERN_DEVICE double mean_of(const FeatureMap& map, int64_t at) {
    const T* from = static_cast<const T*>(map.data) + at;
    Sum sum;
    for (int64_t row = 0; row < map.pool; ++row, from += map.row_stride) {
        if constexpr (kBytes > int(sizeof(T))) {
            constexpr int kCount = kBytes / int(sizeof(T));
            for (int64_t i = 0; i < map.pool; i += kCount) {
                const Words<kBytes> words = load(reinterpret_cast<const Words<kBytes>*>(from + i));
                FAMKERN_UNROLL
                for (int k = 0; k < kCount; ++k) sum.add(number_of<T>(words, k));
            }
        } else {
            for (int64_t i = 0; i < map.pool; ++i) sum.add(number_of(load(from + i * map.column_stride)));
        }
    }
    return (double(sum.total) + double(sum.error)) / double(map.pool * map.pool);
}

template <class T, int kBytes>
FAMKERN_DEVICE void fill(const FeatureMap& map, int64_t at, float value) {
    T* to = static_cast<T*>(const_cast<void*>(map.data)) + at;
    for (int64_t row = 0; row < map.pool; ++row, to += map.row_stride) {
        if constexpr (kBytes > int(sizeof(T))) {
            Words<kBytes> words;
            FAMKERN_UNROLL
            for (int k = 0; k < kBytes / 4; ++k) words.word[k] = words_of(value, T());
            for (int64_t i = 0; i < map.pool; i += kBytes / int(sizeof(T)))
                store(reinterpret_cast<Words<kBytes>*>(to + i), words);
        } else {
            for (int64_t i = 0; i < map.pool; ++i) store(to + i * map.column_stride, narrow(value, T()));
        }
    }
}

// use(T(), bytes that are read at a time) for a map whose windows lie on boundaries of `aligned` bytes.
template <class Use>
FAMKERN_DEVICE auto with_type(const FeatureMap& map, int aligned, const Use& use) {
    const auto with_bytes = [&](auto number) {
        if (aligned == 16) return use(number, Bytes<16>());
        if (aligned == 8) return use(number, Bytes<8>());
        return use(number, Bytes<1>());
    };
    if (map.type == Type::float16) return with_bytes(Half());
    if (map.type == Type::bfloat16) return with_bytes(BFloat());
    return with_bytes(float());
}

FAMKERN_DEVICE double mean(const FeatureMap& map, int aligned, int64_t at) {
    return with_type(map, aligned, [&](auto number, auto bytes) {
        return mean_of<decltype(number), decltype(bytes)::kValue>(map, at);
    });
}

// ---- forward -------------------------------------------------------------------------------------------------------

struct MapsArguments {
    FeatureMap student, teacher;
    int student_aligned, teacher_aligned, channels, tiles;  // tiles of a block
    int64_t positions, columns;
    float* maps;      // (images, 2 channels, positions)
    double* partial;  // (images, blocks, entries)
};

// Row and column of an entry of the upper triangle.
struct Entry {
    int row = 0, column = 0;

    FAMKERN_DEVICE Entry(int entry, int rows) {
        while (entry >= rows - row) entry -= rows - row++;
        column = row + entry;
    }
};

FAMKERN_KERNEL(kPositions, 3) maps_kernel(const MapsArguments a) {
    double* value = reinterpret_cast<double*>(shared_memory());  // [row][position of the tile]
    const int t = int(threadIdx.x), rows = 2 * a.channels, entries = entries_of(rows), parts = kPositions / entries;
    const int64_t image = blockIdx.y;
    const bool adds = t < parts * entries;  // part t / entries of an entry's products
    const Entry entry(adds ? t % entries : 0, rows);
    double total = 0;
    for (int tile = 0; tile < a.tiles; ++tile) {
        const int64_t n = (int64_t(blockIdx.x) * a.tiles + tile) * kPositions + t;
        const bool inside = n < a.positions;
        const int64_t y = uint32_t(n) / uint32_t(a.columns), x = uint32_t(n) % uint32_t(a.columns);
        const auto mean_at = [&](const FeatureMap& map, int aligned, int c) {
            if (!inside || c >= map.channels) return 0.0;  // a narrower map's missing channels are zero
            return mean(map, aligned,
                        image * map.image_stride + c * map.channel_stride +
                            map.pool * (y * map.row_stride + x * map.column_stride));
        };
        for (int c = 0; c < a.channels; ++c) {
            const double s = mean_at(a.student, a.student_aligned, c), r = mean_at(a.teacher, a.teacher_aligned, c);
            value[c * kPitch + t] = s - r;
            value[(c + a.channels) * kPitch + t] = s + r;
            if (!inside) continue;
            float* to = a.maps + (image * rows + c) * a.positions + n;
            store(to, float(s - r));
            store(to + a.channels * a.positions, float(s + r));
        }
        barrier();
        if (adds)
            for (int m = t / entries; m < kPositions; m += parts)
                total += value[entry.row * kPitch + m] * value[entry.column * kPitch + m];
        barrier();
    }
    if (adds) value[t] = total;
    barrier();
    if (t >= entries) return;
    for (int part = 1; part < parts; ++part) total += value[part * entries + t];
    store(a.partial + (image * gridDim.x + blockIdx.x) * entries + t, total);
}

// Block (entry, image): gram (images, rows, rows) from partial (images, blocks, entries). Threads add every 256th
// block, then halves meet.
FAMKERN_KERNEL(kPositions, 1) gram_kernel(const double* partial, double* gram, int64_t blocks, int rows) {
    double* sums = reinterpret_cast<double*>(shared_memory());
    const int t = int(threadIdx.x), entries = entries_of(rows);
    const int64_t image = blockIdx.y;
    double total = 0;
    for (int64_t block = t; block < blocks; block += kPositions)
        total += load(partial + (image * blocks + block) * entries + blockIdx.x);
    sums[t] = total;
    for (int half = kPositions / 2; half > 0; half /= 2) {
        barrier();
        if (t < half) sums[t] += sums[t + half];
    }
    if (t != 0) return;
    const Entry entry(int(blockIdx.x), rows);
    store(gram + (image * rows + entry.row) * rows + entry.column, sums[0]);
    if (entry.row != entry.column) store(gram + (image * rows + entry.column) * rows + entry.row, sums[0]);
}

// ---- backward ------------------------------------------------------------------------------------------------------

struct SpreadArguments {
    FeatureMap gradient;
    int aligned, height;
    int64_t positions, columns;
    const float* maps;
    const double* coefficients;
};

FAMKERN_KERNEL(kPositions, 3) spread_kernel(const SpreadArguments a) {
    const int64_t image = blockIdx.y, n = int64_t(blockIdx.x) * kPositions + threadIdx.x;
    if (n >= a.positions) return;
    float m[kMostRows];
    FAMKERN_UNROLL
    for (int k = 0; k < kMostRows; ++k)
        m[k] = k < a.height ? load(a.maps + (image * a.height + k) * a.positions + n) : 0.0f;
    const int64_t y = uint32_t(n) / uint32_t(a.columns), x = uint32_t(n) % uint32_t(a.columns);
    const FeatureMap& g = a.gradient;
    for (int64_t c = 0; c < g.channels; ++c) {
        const double* weight = a.coefficients + (image * g.channels + c) * a.height;
        double sum = 0;
        FAMKERN_UNROLL
        for (int k = 0; k < kMostRows; ++k)
            if (k < a.height) sum += weight[k] * double(m[k]);
        const int64_t at =
            image * g.image_stride + c * g.channel_stride + g.pool * (y * g.row_stride + x * g.column_stride);
        const float value = float(sum / double(g.pool * g.pool));
        with_type(g, a.aligned,
                  [&](auto number, auto bytes) { fill<decltype(number), decltype(bytes)::kValue>(g, at, value); });
    }
}

// ---- calls ---------------------------------------------------------------------------------------------------------

// Bytes, 16, 8 or 1, on whose boundaries every row of every window lies and ends.
int alignment_of(const FeatureMap& map) {
    const int64_t size = map.type == Type::float32 ? 4 : 2;
    const auto whole = [&](int64_t bytes) {
        const int64_t count = bytes / size;
        return reinterpret_cast<uintptr_t>(map.data) % uintptr_t(bytes) == 0 && map.column_stride == 1 &&
               map.pool % count == 0 && map.row_stride % count == 0 && map.channel_stride % count == 0 &&
               map.image_stride % count == 0;
    };
    return whole(16) ? 16 : whole(8) ? 8 : 1;
}

int64_t tiles_of(const AffinityMaps& call) {  // of a block
    return (call.positions() + kPositions * kMostBlocks - 1) / (kPositions * kMostBlocks);
}

int64_t blocks_of(const AffinityMaps& call) {
    const int64_t own = kPositions * tiles_of(call);
    return (call.positions() + own - 1) / own;
}

}  // namespace

int64_t workspace_bytes(const AffinityMaps& call) {
    return call.images * blocks_of(call) * entries_of(2 * int(call.channels())) * int64_t(sizeof(double));
}

int run_affinity_maps(const AffinityMaps& call, void* workspace, void* stream) {
    MapsArguments a{};
    a.student = call.student;
    a.teacher = call.teacher;
    a.student_aligned = alignment_of(call.student);
    a.teacher_aligned = alignment_of(call.teacher);
    a.channels = int(call.channels());
    a.tiles = int(tiles_of(call));
    a.positions = call.positions();
    a.columns = call.columns;
    a.maps = call.maps;
    a.partial = static_cast<double*>(workspace);
    const int rows = 2 * a.channels;
    const int64_t blocks = blocks_of(call), tile = int64_t(rows * kPitch) * 8, sums = kPositions * 8;
    const int error = FAMKERN_LAUNCH(maps_kernel, blocks, call.images, kPositions, tile, stream, a);
    if (error != 0) return error;
    const double* partial = a.partial;
    double* gram = call.gram;
    return FAMKERN_LAUNCH(gram_kernel, entries_of(rows), call.images, kPositions, sums, stream, partial, gram, blocks,
                          rows);
}

int run_affinity_spread(const AffinitySpread& call, void* stream) {
    SpreadArguments a{};
    a.gradient = call.gradient;
    a.aligned = alignment_of(call.gradient);
    a.height = int(call.height);
    a.positions = call.rows * call.columns;
    a.columns = call.columns;
    a.maps = call.maps;
    a.coefficients = call.coefficients;
    const int64_t blocks = (a.positions + kPositions - 1) / kPositions;
    return FAMKERN_LAUNCH(spread_kernel, blocks, call.images, kPositions, 0, stream, a);
}

#ifdef __CUDACC__
int run_affinity_maps_on(int device, const AffinityMaps& call, void* workspace, void* stream) {
    return on_device(device, [&] { return run_affinity_maps(call, workspace, stream); });
}
int run_affinity_spread_on(int device, const AffinitySpread& call, void* stream) {
    return on_device(device, [&] { return run_affinity_spread(call, stream); });
}
#endif

}  // namespace famkern::cuda
