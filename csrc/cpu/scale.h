// Calls of the three operators of reduced scale as plain data; contracts are in
// famkern/ops/{reduce_picture,fit_affine,apply_affine}.py. Knows no torch.
//
// Each call is a band of rows, cut into tasks. What a task computes of a pixel depends neither on the band nor on the
// cut.
#pragma once

#include <algorithm>
#include <cstdint>

namespace famkern {

constexpr int64_t kMostScale = 8;
constexpr int64_t kRadius = 8;  // of the windows, in reduced pixels
constexpr int64_t kSide = 2 * kRadius + 1;
constexpr double kEpsilon = 1e-4;
// Variance up to which a window is flat. Of equal pixels it is computed to within 2^-47, and float32 has no values
// closer to 1 than 2^-24.
constexpr double kFlat = 0x1p-46;

enum class Depth { uint8, uint16, float32, float64 };

// Rows of an RGB picture as they lie in memory.
struct Picture {
    char* data;
    Depth depth;
    int64_t rows, width;
    int64_t strides[3];  // from row to row, pixel to pixel, channel to channel, in numbers
};

// The triangle that weighs the rows, or columns, of reduced pixel i, times 2 k: whole numbers.
struct Triangle {
    int64_t scale;

    int64_t first(int64_t i) const { return i * scale - scale / 2; }  // the first of positive weight, perhaps outside
    int64_t end(int64_t i) const { return first(i) + 2 * scale - scale % 2; }
    // Of the row `place` after the first.
    int64_t weight(int64_t place) const {
        const int64_t rising = 2 * place + 1 + scale % 2;
        return std::min(rising, 4 * scale - rising);
    }
    // Of rows from `begin` up to `stop`, which may be fewer than have weight.
    int64_t total(int64_t i, int64_t begin, int64_t stop) const {
        if (begin == first(i) && stop == end(i)) return 2 * scale * scale;
        int64_t sum = 0;
        for (int64_t at = begin; at < stop; ++at) sum += weight(at - first(i));
        return sum;
    }
};

// Between which two reduced pixels a pixel lies, and where; reduced pixels go up to `last`.
class Between {
   public:
    Between(int64_t at, int64_t scale, int64_t last)
        : step_(2 * scale), last_(last), twice_(2 * at + 1 - scale), low_(std::max<int64_t>(twice_, 0) / step_) {
        twice_ -= low_ * step_;
    }

    void next() {  // pixel
        twice_ += 2;
        if (twice_ >= step_) twice_ -= step_, ++low_;
    }
    int64_t low() const { return std::min(low_, last_); }
    int64_t high() const { return std::min(low_ + 1, last_); }
    int64_t part() const { return low_ >= last_ || twice_ < 0 ? 0 : twice_; }  // of 2 scale, from low to high

   private:
    int64_t step_, last_, twice_, low_;
};

struct ReduceCall {
    Picture image;  // rows image_row, image_row + 1, ...
    void* out;      // (rows, width, 3), rows row, row + 1, ...
    bool wide;      // out and arithmetic are float64, not float32
    int64_t rows, width;
    int64_t scale, image_row, row;

    static constexpr int64_t kRows = 8;  // of a task
    int64_t tasks() const { return (rows + kRows - 1) / kRows; }
    int64_t scratch_bytes() const { return (2 * 3 * image.width + 4) * 8; }
};

struct FitCall {
    const void* image;    // (input_rows, width, 3), all float32 or all float64
    const void* target;   // likewise
    const void* weights;  // (input_rows, width) or null for ones
    void* out[2];         // a and b, (rows, width, 3); row 0 is row `top` of the inputs
    bool wide;
    int64_t input_rows, rows, top, width;
    int64_t runs = 1;  // of rows; tasks are runs by blocks of columns

    static constexpr int64_t kColumns = 128;  // of a block: the rows of its sums fit an L2 cache
    static constexpr int64_t kFitted = kColumns + 2 * kRadius, kRead = kFitted + 2 * kRadius;
    static constexpr int64_t kMoments = 5, kMeans = 3;  // summed over windows: v x, v y, v x y, v x x, v; v a, v b, v
    static constexpr int64_t kSpare = 16;               // of a row, for whole registers
    int64_t blocks() const { return (width + kColumns - 1) / kColumns; }
    int64_t tasks() const { return blocks() * runs; }
    void cut(int64_t threads) {  // every run computes 4 kRadius rows beside its own
        runs =
            std::clamp<int64_t>((4 * threads + blocks() - 1) / blocks(), 1, (rows + 4 * kRadius - 1) / (4 * kRadius));
    }
    static constexpr int64_t scratch_bytes() {
        return 3 * 8 * (kSide * (kMoments * kFitted + kMeans * kColumns) + 7 * (kRead + kSpare));
    }
};

struct ApplyCall {
    Picture image, out;   // rows row, row + 1, ...
    const void* maps[2];  // a and b, (map_rows, map_width, 3), rows map_row, map_row + 1, ...
    bool wide;            // a, b and arithmetic are float64, not float32
    double strength;
    int64_t map_rows, map_width;
    int64_t scale, row, map_row;

    static constexpr int64_t kRows = 32;  // of a task
    int64_t tasks() const { return (image.rows + kRows - 1) / kRows; }
    int64_t scratch_bytes() const { return (3 * (4 + 2) * image.width + 4 * 16 + 3 * map_width + 1) * 8; }
};

struct ScaleKernels {
    void (*reduce)(const ReduceCall&, int64_t task, void* scratch);
    void (*fit)(const FitCall&, int64_t task, void* scratch);
    void (*apply)(const ApplyCall&, int64_t task, void* scratch);
};

}  // namespace famkern
