// The stages of the network, each one pass over a band of rows: every intermediate of a task lives in a ring of rows.
//
//   maps ->  source   ->  ring 0  ->  convolve 1  ->  ring 1  ->  convolve 2  ->  maps, sums
//            a row at      rows        a strip of      rows        the strip
//            a time       4s-1 ...     4 rows, s      4s-5 ...     above, s-1
//                         4s+4                        4s+3
//
//   stage        source                                convolutions
//   head         x = pre(normalised picture) -> out_x  r = relu(conv1(x)) + x,  z = conv2(r) -> out
//   block        x' = z g pa(z g) + x        -> out_x  r = relu(conv1(x')) + x',  z' = conv2(r) -> out
//   group        x' = z g pa(z g) + x                  r = conv(x') + skip -> out,  then as in a block
//   last_group   the same                              r = conv(x') + skip -> out
//   tail         o = sum of w r, o pa(o)               post1,  clamp(post2 + normalised picture) -> out
//   down         x = 2x2 of the finer map    -> out_x  as in a block
//   up           x = of coarser map and skip -> out_x  as in a block
//   u_tail       x' = z g pa(z g) + x                  r = conv(x') + skip,  clamp(head of post(r) and picture) -> out
//
// Outside the image rings hold zeros, which is the network's padding.
#include "cpu/pointwise.h"
#include "cpu/rows.h"
#include "cpu/stage.h"
#include "cpu/winograd.h"

namespace famkern::FAMKERN_ISA {
namespace {

// The run of one task; C channels, maps stored as T.
template <int C, class T>
class Runner {
   public:
    static int64_t scratch_floats(const StageCall& call, int64_t tiles) {
        const int64_t columns = kTileSide * (tiles + 2 * call.convolutions);
        int64_t floats = kPictureRows * picture_stride_for(columns) + kP + kQ + crossing_floats(call, columns);
        for (int level = 0; level < call.convolutions; ++level) floats += ring_rows(level) * ring_stride(columns, C);
        return floats;
    }

    Runner(const StageCall& call, const Task& task, const float* packed, float* scratch, double* const* partial,
           int64_t parts)
        : call(call),
          task(task),
          partial(partial),
          parts(parts),
          one_cell(call.cells() == 1),
          one_gate(call.gate != nullptr && call.gate_rows == 1 && call.gate_columns == 1),
          n(call.convolutions),
          skips(call.kind == StageKind::group || call.kind == StageKind::last_group || call.kind == StageKind::u_tail),
          emits(call.kind == StageKind::group),
          tail(call.kind == StageKind::tail),
          makes_picture(tail || call.kind == StageKind::u_tail),
          tiles_across((call.width + kTileSide - 1) / kTileSide),
          end_row(call.rows + call.bottom),
          own_first_row(kTileSide * task.first_strip),
          own_end_row(least(kTileSide * task.end_strip, call.rows)),
          own_first_column(kTileSide * task.first_tile),
          own_end_column(least(kTileSide * task.end_tile, call.width)),
          source_first_column(most(0, kTileSide * first_tile_of(1) - 1)),
          source_end_column(least(call.width, kTileSide * end_tile_of(1) + 1)),
          attention(call.pixel, one_gate && !tail ? call.gate + task.image * C : nullptr) {
        const int64_t columns = kTileSide * (task.end_tile - task.first_tile + 2 * n), stride = ring_stride(columns, C);
        for (int level = 0; level < n; ++level) {
            U[level] = packed;
            packed += packed_floats(call.convolution[level].inputs, call.convolution[level].outputs);
            ring[level] = {scratch, ring_rows(level), stride, kTileSide * (task.first_tile - n), C};
            scratch += ring_rows(level) * stride;
        }
        crossing_weight = packed;
        P = scratch;
        Q = P + kP;
        picture = Q + kQ;
        picture_stride = picture_stride_for(columns);
        crossing_row = picture + kPictureRows * picture_stride;
        std::memset(P, 0, kP * sizeof(float));  // tiles that fill up a group read it and are thrown away
        clear_borders();
        for (int o = 0; call.kind == StageKind::head && o < C; ++o)
            for (int c = 0; c < 3; ++c)
                for (int tap = 0; tap < 9; ++tap) lift_weight[tap * 3 + c][o] = call.lift.weight[(o * 3 + c) * 9 + tap];
    }

    void run() {
        int64_t next_row = kTileSide * (task.first_strip - (n - 1)) - 1;
        for (int64_t s = task.first_strip - (n - 1); s < task.end_strip + n - 1; ++s) {
            for (; next_row <= kTileSide * s + 4; ++next_row) source(next_row);
            look_ahead(next_row);
            for (int level = 1; level <= n; ++level) {  // level k trails one strip behind level k - 1
                const int64_t strip = s - (level - 1);
                if (strip >= task.first_strip - (n - level) && strip < task.end_strip + (n - level))
                    convolve(level, strip);
            }
        }
        end_of_streams();
    }

   private:
    static constexpr int64_t kP = 6 * kColumns * C, kQ = 6 * 4 * kRun * C;
    static constexpr int64_t kPictureRows = 4, kFarAbove = 1 << 20;
    static int64_t picture_stride_for(int64_t columns) { return round_up(3 * (columns + 2), 16); }
    static int64_t crossing_floats(const StageCall& call, int64_t columns) {  // a row of the other map, or of the skip
        if (call.kind == StageKind::down) return (2 * columns + 2) * call.crossing.channels;
        if (call.kind == StageKind::up) return most((columns / 2 + 2) * call.crossing.channels, columns * C);
        return 0;
    }

    bool inside(int64_t y) const { return y >= -call.top && y < end_row; }

    // Tiles that level k computes: the task's own and those that the levels after it reach.
    int64_t first_tile_of(int level) const { return most(0, task.first_tile - (n - level)); }
    int64_t end_tile_of(int level) const { return least(tiles_across, task.end_tile + (n - level)); }

    // Pixel (y, x) of a map whose row 0 is row 0 of the band.
    template <class S>
    S* pixel(const Map& map, int64_t y, int64_t x, int channels = C) const {
        return static_cast<S*>(map.data) + task.image * map.image_stride + (y * call.width + x) * channels;
    }
    const T* input(int64_t index, int64_t y, int64_t x) const { return pixel<T>(call.maps[index], y + call.top, x); }

    // Columns outside the image, which nothing else writes.
    void clear_borders() {
        for (int level = 0; level < n; ++level)
            for (int64_t slot = 0; slot < ring[level].rows; ++slot) {
                if (first_tile_of(level + 1) == 0) std::memset(ring[level].at(slot, -1), 0, C * sizeof(float));
                if (end_tile_of(level + 1) == tiles_across)
                    std::memset(ring[level].at(slot, call.width), 0,
                                (kTileSide * tiles_across + 1 - call.width) * C * sizeof(float));
            }
    }

    // ---- sources ---------------------------------------------------------------------------------------------------

    void source(int64_t y) {
        const int64_t x0 = source_first_column, count = source_end_column - x0;
        float* row = ring[0].at(y, x0);
        if (!inside(y)) {
            std::memset(row, 0, count * C * sizeof(float));
            return;
        }
        if (call.kind == StageKind::head) {
            lift(y, row, write_x(y));
        } else if (call.kind == StageKind::down) {
            halve(y, row);
            copy_row(row, count, write_x(y));
        } else if (call.kind == StageKind::up) {
            join(y, row);
            copy_row(row, count, write_x(y));
        } else if (tail) {
            weigh(y, 0, call.map_count, row);
            attention(row, count, [=](int64_t i, Vec weight) { store(row + i, load(row + i) * weight); });
        } else {
            finish_block(y, row, write_x(y));
        }
    }

    // Writes the task's own part of a row of x' to out_x; i counts from the source's first column.
    struct WriteX {
        T* to;
        int64_t first, end;
        bool past_caches;

        FAMKERN_INLINE void operator()(int64_t i, Vec v) const {
            if (i < first || i >= end) return;
            if (past_caches)
                stream(to + i, v);
            else
                store(to + i, v);
        }
    };

    WriteX write_x(int64_t y) const {
        if (call.out_x.data == nullptr || !own(y)) return {};
        return {pixel<T>(call.out_x, y, source_first_column), (own_first_column - source_first_column) * C,
                (own_end_column - source_first_column) * C, call.stream};
    }

    // x' = z g pa(z g) + x
    void finish_block(int64_t y, float* row, const WriteX& out) const {
        const int64_t x0 = source_first_column, count = source_end_column - x0;
        const T* x = input(0, y, x0);
        if (one_gate) {  // multiplied into the attention's weights: a row less to write and read
            const T* z = input(1, y, x0);
            const float* gate = call.gate + task.image * C;
            attention(z, count, [=](int64_t i, Vec weight) {
                const Vec v = fma(load(z + i) * load(gate + i % C), weight, load(x + i));
                store(row + i, v);
                out(i, v);
            });
        } else {
            weigh(y, 1, 2, row);
            attention(row, count, [=](int64_t i, Vec weight) {
                const Vec v = fma(load(row + i), weight, load(x + i));
                store(row + i, v);
                out(i, v);
            });
        }
    }

    void look_ahead(int64_t y) {
        ahead = Ahead();
        for (int64_t in = y; in < y + kTileSide; ++in)
            for (int64_t m = 0; m < call.map_count && inside(in); ++m) ahead.add(input(m, in, source_first_column));
        ahead.plan((source_end_column - source_first_column) * C * sizeof(T),
                   (end_tile_of(1) - first_tile_of(1)) / kGroup * 6 * n);
    }

    // The sum of maps first .. end - 1, each with its channels' weights; these are linear from corner to corner of
    // cells.
    void weigh(int64_t y, int64_t first, int64_t end, float* row) const {
        const int64_t picture_row = y + call.top + call.first_row;
        const int64_t above = call.gate_rows == 1 ? 0 : picture_row / call.cell;
        const int64_t line = call.gate_columns * call.gates(), below = call.gate_rows == 1 ? 0 : line;
        const float* const corners = call.gate + (task.image * call.gate_rows + above) * line;
        const Vec down = broadcast(float(picture_row - above * call.cell) / float(call.cell));
        for (int64_t x0 = source_first_column, x1; x0 < source_end_column; x0 = x1) {
            const int64_t left = call.gate_columns == 1 ? 0 : x0 / call.cell;
            x1 = call.gate_columns == 1 ? source_end_column : least((left + 1) * call.cell, source_end_column);
            float* const to = row + (x0 - source_first_column) * C;
            for (int64_t m = first; m < end; ++m) {
                const T* from = input(m, y, x0);
                const float* const corner = corners + left * call.gates() + (m - first) * C;
                Vec weight[C / kLanes], step[C / kLanes] = {};
                for (int part = 0; part < C / kLanes; ++part) {
                    const auto between = [&](const float* at) __attribute__((always_inline)) {
                        const Vec upper = load(at + part * kLanes);
                        return fma(load(at + below + part * kLanes) - upper, down, upper);
                    };
                    weight[part] = between(corner);
                    if (call.gate_columns > 1)
                        step[part] = (between(corner + call.gates()) - weight[part]) / broadcast(float(call.cell));
                }
                Vec right = broadcast(float(x0 - left * call.cell));
                for (int64_t i = 0; i < (x1 - x0) * C; i += C, right += broadcast(1))
                    for (int part = 0; part < C / kLanes; ++part) {
                        const int64_t at = i + part * kLanes;
                        const Vec v = fma(step[part], right, weight[part]) * load(from + at);
                        store(to + at, m == first ? v : load(to + at) + v);
                    }
            }
        }
    }

    // The normalised picture in row y, columns x0 - 1 .. x1, zero outside the image.
    void normalise(int64_t y, int64_t x0, int64_t x1, float* to) const {
        const int64_t first = most(x0 - 1, 0), end = least(x1 + 1, call.width);
        std::memset(to, 0, 3 * (x1 - x0 + 2) * sizeof(float));
        if (!inside(y)) return;
        const float* from = pixel<float>(call.image, y + call.top, first, 3);
        to += 3 * (first - x0 + 1);
        for (int64_t i = 0; i < end - first; ++i)
            for (int c = 0; c < 3; ++c) to[3 * i + c] = (from[3 * i + c] - call.mean[c]) / call.std[c];
    }

    // x = pre(normalised picture), directly: three input channels give too little to multiply for tiles.
    void lift(int64_t y, float* row, const WriteX& out) {
        const int64_t x0 = source_first_column, x1 = source_end_column;
        for (next_picture_row = most(next_picture_row, y - 1); next_picture_row <= y + 1; ++next_picture_row)
            normalise(next_picture_row, x0, x1, picture_row(next_picture_row));
        const float* rows[3] = {picture_row(y - 1), picture_row(y), picture_row(y + 1)};
        for (int64_t x = 0; x < x1 - x0; ++x)
            for (int o = 0; o < C; o += kLanes) {
                Vec sum = load(call.lift.bias + o);
                for (int r = 0; r < 3; ++r)
                    for (int i = 0; i < 9; ++i)
                        sum = fma(broadcast(rows[r][3 * x + i]), load(lift_weight[r * 9 + i] + o), sum);
                store(row + x * C + o, sum);
                out(x * C + o, sum);
            }
    }

    // ---- from other levels -----------------------------------------------------------------------------------------

    static void copy_row(const float* row, int64_t count, const WriteX& out) {
        for (int64_t i = 0; i < count * C; i += kLanes) out(i, load(row + i));
    }

    // Pixels first .. end - 1 of a row of the other map, in float; zeros where it has none.
    void read_crossing(int64_t row, int64_t first, int64_t end) const {
        const Crossing& c = call.crossing;
        const T* from = static_cast<const T*>(c.map.data) + task.image * c.map.image_stride;
        const int64_t there = most(least(end, c.width) - first, 0) * c.channels;
        widen(from + (row * c.width + first) * c.channels, there, crossing_row);
        std::memset(crossing_row + there, 0, ((end - first) * c.channels - there) * sizeof(float));
    }

    // x = 2x2 of the finer map: each of its two rows is pairs of pixels side by side.
    void halve(int64_t y, float* row) const {
        const int64_t x0 = source_first_column, count = source_end_column - x0;
        const int pair = 2 * call.crossing.channels;
        for (int64_t i = 0; i < count * C; i += kLanes) store(row + i, load(call.crossing.bias + i % C));
        for (int64_t r = 0; r < 2; ++r) {
            const int64_t fine = 2 * (y + call.top) + r;
            if (fine >= call.crossing.rows) return;
            read_crossing(fine, 2 * x0, 2 * (x0 + count));
            add_products<C>(crossing_row, pair, pair, count, crossing_weight + r * pair * C, row, C);
        }
    }

    // x = of the skip, and of the coarser map what is meant for this row and for even or odd columns.
    void join(int64_t y, float* row) const {
        const int64_t x0 = source_first_column, x1 = source_end_column, picture_row = y + call.top + call.first_row;
        const int64_t first = x0 / 2, K = call.crossing.channels;
        const int r = int(picture_row % 2);
        for (int64_t x = x0; x < x1; ++x)
            for (int o = 0; o < C; o += kLanes)
                store(row + (x - x0) * C + o, load(call.crossing.bias + (2 * r + x % 2) * C + o));
        widen(input(0, y, x0), (x1 - x0) * C, crossing_row);
        add_products<C>(crossing_row, C, C, x1 - x0, crossing_weight + 4 * K * C, row, C);
        read_crossing(picture_row / 2 - call.first_row / 2, first, (x1 + 1) / 2);
        for (int64_t c = 0; c < 2; ++c) {
            const int64_t x = x0 + (x0 % 2 != c);  // the first column of this kind
            if (x >= x1) continue;
            add_products<C>(crossing_row + (x / 2 - first) * K, K, int(K), (x1 - x + 1) / 2,
                            crossing_weight + (2 * r + c) * K * C, row + (x - x0) * C, 2 * C);
        }
    }

    float* picture_row(int64_t y) const { return picture + (y + 48) % kPictureRows * picture_stride; }

    // ---- convolutions ----------------------------------------------------------------------------------------------

    void convolve(int level, int64_t strip) {
        const Ring& from = ring[level - 1];
        const int64_t first = first_tile_of(level), end = end_tile_of(level), y = kTileSide * strip;
        if (!inside(y) && !inside(y + 3)) {
            for (int r = 0; level < n && r < 4; ++r)
                std::memset(ring[level].at(y + r, 4 * first), 0, (end - first) * 4 * C * sizeof(float));
            return;
        }
        for (int64_t tile = first; tile < end; tile += kRun) {
            const int tiles = int(least(kRun, end - tile));
            const int64_t x = kTileSide * tile;
            const float* rows[6];
            for (int i = 0; i < 6; ++i) rows[i] = from.at(y - 1 + i, x - 1);
            columns<C>(rows, 4 * tiles + 2, P);
            if (makes_picture && level == n) {
                products<C, kOutputs>(P, U[level - 1], tiles, Q, ahead);
                write_picture(y, x, least(4 * tiles, call.width - x));
            } else {
                products<C, C>(P, U[level - 1], tiles, Q, ahead);
                put(level, y, x, least(4 * tiles, call.width - x));
            }
        }
    }

    void put(int level, int64_t y, int64_t x, int64_t count) {
        if (skips && level == 1) {
            const T* skip[4];
            for (int r = 0; r < 4; ++r) skip[r] = input(2, least(most(y + r, -call.top), end_row - 1), x);
            keep_or_write(level, y, x, count, [&](int r, int64_t i, Vec v) { return v + load(skip[r] + i); });
        } else if (level == n || tail) {
            keep_or_write(level, y, x, count, [](int, int64_t, Vec v) { return v; });
        } else {
            const float* residual[4];
            for (int r = 0; r < 4; ++r) residual[r] = ring[level - 1].at(y + r, x);
            keep_or_write(level, y, x, count,
                          [&](int r, int64_t i, Vec v) { return maximum(v, Vec{}) + load(residual[r] + i); });
        }
    }

    // Four rows of a level to its ring, and the task's own part of what a stage puts out to out[] and the sums of rows.
    template <class Combine>
    void keep_or_write(int level, int64_t y, int64_t x, int64_t count, const Combine& combine) {
        const int64_t x0 = most(x, own_first_column), x1 = least(x + count, own_end_column);
        if (level == n) {
            if (x0 < x1)
                call.stream ? write<true>(level, y, x, x0, x1, combine) : write<false>(level, y, x, x0, x1, combine);
            return;
        }
        float* to[4];
        for (int r = 0; r < 4; ++r) to[r] = ring[level].at(y + r, x);
        finish(level, 0, count, combine, [&](int r, int64_t i, int, Vec v) { store(to[r] + i, v); });
        for (int r = 0; r < 4; ++r)
            if (!inside(y + r)) std::memset(to[r], 0, count * C * sizeof(float));
        for (int r = 0; emits && level == 1 && x0 < x1 && r < 4; ++r)
            if (own(y + r))
                for (int64_t from = x0, end; from < x1; from = end) {
                    end = least(x1, end_of_cell(from));
                    write_kept(to[r] + (from - x) * C, pixel<T>(call.out[0], y + r, from), end - from,
                               sums_of(0, y + r, from));
                }
    }

    // Of the last level, columns x0 .. x1 - 1 of the run at x.
    template <bool kStream, class Combine>
    void write(int level, int64_t y, int64_t x, int64_t x0, int64_t x1, const Combine& combine) {
        const int index = emits ? 1 : 0;
        T* to[4];
        for (int r = 0; r < 4; ++r) to[r] = own(y + r) ? pixel<T>(call.out[index], y + r, x) : nullptr;
        for (int64_t from = x0, end; from < x1; from = end) {
            end = least(x1, end_of_cell(from));
            Vec sum[4][C / kLanes] = {};
            finish(level, from - x, end - x, combine, [&](int r, int64_t i, int part, Vec v) {
                if (to[r] == nullptr) return;
                if constexpr (kStream)
                    stream(to[r] + i, v);
                else
                    store(to[r] + i, v);
                sum[r][part] += v;
            });
            for (int r = 0; partial[index] != nullptr && r < 4; ++r)
                if (to[r] != nullptr) add_lanes<C>(sum[r], sums_of(index, y + r, from));
        }
    }

    // take(r, i, combine(A^T Q + bias)) for four rows r and the elements i of pixels first .. end - 1.
    template <class Combine, class Take>
    void finish(int level, int64_t first, int64_t end, const Combine& combine, const Take& take) const {
        const float* bias = call.convolution[level - 1].bias;
        for (int64_t i = first * C; i < end * C; i += C)
#pragma GCC unroll 4
            for (int part = 0; part < C; part += kLanes) {
                Vec m[6], o[4];
                for (int r = 0; r < 6; ++r) m[r] = load(Q + r * 4 * kRun * C + i + part);
                inverse(m, o);
#pragma GCC unroll 4
                for (int r = 0; r < 4; ++r)
                    take(r, i + part, part / kLanes, combine(r, i + part, o[r] + load(bias + part)));
            }
    }

    // out = clamp(o + p), or clamp(K p - B + p) with K and B the four channels of o = A^T Q + bias; p: the normalised
    // picture.
    void write_picture(int64_t y, int64_t x, int64_t count) {
        const float* bias = call.convolution[n - 1].bias;
        const int rows = int(least(4, own_end_row - y));
        const bool gain = call.convolution[n - 1].outputs == 4;
        for (int r = 0; r < rows; ++r) normalise(y + r, x, x + count, picture_row(r));
        for (int64_t i = 0; i < count; ++i) {
            Vec m[6], o[4];
            for (int r = 0; r < 6; ++r) m[r] = load(Q + (r * 4 * kRun + i) * kOutputs);
            inverse(m, o);
            for (int r = 0; r < rows; ++r)
                for (int c = 0; c < 3; ++c) {
                    const float p = picture_row(r)[3 * (i + 1) + c];
                    const float v =
                        gain ? (o[r][0] + bias[0]) * p - (o[r][c + 1] + bias[c + 1]) + p : o[r][c] + bias[c] + p;
                    pixel<float>(call.out[0], y + r, x + i, 3)[c] = v < 0 ? 0 : v > 1 ? 1 : v;
                }
        }
    }

    bool own(int64_t y) const { return y >= own_first_row && y < own_end_row; }

    int64_t end_of_cell(int64_t x) const { return one_cell ? call.width : (x / call.cell + 1) * call.cell; }

    // The task's sums of row y of out[index] around column x.
    double* sums_of(int index, int64_t y, int64_t x) const {
        const int64_t part = one_cell ? task.block : x / call.cell;
        return partial[index] + ((task.image * call.rows + y) * parts + part) * C;
    }

    void write_kept(const float* from, T* to, int64_t count, double* sums) const {
        if (call.stream)
            write_row<C, true>(from, to, count, sums);
        else
            write_row<C, false>(from, to, count, sums);
    }

    const StageCall& call;
    const Task& task;
    double* const* partial;
    const int64_t parts;
    const bool one_cell, one_gate;
    const int n;                                   // convolutions
    const bool skips, emits, tail, makes_picture;  // a skip after the first convolution; its result is an output too
    const int64_t tiles_across, end_row, own_first_row, own_end_row, own_first_column, own_end_column;
    const int64_t source_first_column, source_end_column;
    const PixelAttention<C> attention;
    Ring ring[kMaxConvolutions];
    const float* U[kMaxConvolutions];
    const float* crossing_weight;
    float *P, *Q, *picture, *crossing_row;
    int64_t picture_stride, next_picture_row = -kFarAbove;
    alignas(64) float lift_weight[27][C];  // [row, column, input][output]
    Ahead ahead;
};

// Matrices (inputs, C), one after another: of the two rows of pairs of pixels; or of the four pixels, and of the skip.
void pack_crossing(const StageCall& call, float* to) {
    const Crossing& c = call.crossing;
    const int C = call.channels, K = c.channels;
    if (call.kind == StageKind::down)
        for (int tap = 0; tap < 4; ++tap)
            for (int k = 0; k < K; ++k)
                for (int o = 0; o < C; ++o) *to++ = c.weight[(o * K + k) * 4 + tap];
    if (call.kind == StageKind::up) {
        for (int pixel = 0; pixel < 4; ++pixel)
            for (int k = 0; k < K; ++k)
                for (int o = 0; o < C; ++o) *to++ = c.weight[(pixel * C + o) * K + k];
        for (int k = 0; k < C; ++k)
            for (int o = 0; o < C; ++o) *to++ = c.skip[o * C + k];
    }
}

int64_t packed_bytes(const StageCall& call) {
    int64_t floats = 4 * call.crossing.channels * call.channels;
    if (call.kind == StageKind::up) floats += call.channels * call.channels;
    for (int i = 0; i < call.convolutions; ++i)
        floats += packed_floats(call.convolution[i].inputs, call.convolution[i].outputs);
    return floats * sizeof(float);
}

void pack_all(const StageCall& call, void* packed) {
    float* to = static_cast<float*>(packed);
    for (int i = 0; i < call.convolutions; ++i) {
        const Convolution& c = call.convolution[i];
        pack(c.weight, c.inputs, c.outputs, to);
        to += packed_floats(c.inputs, c.outputs);
    }
    pack_crossing(call, to);
}

template <int C>
int64_t scratch_bytes_of(const StageCall& call, int64_t tiles) {
    return Runner<C, Float>::scratch_floats(call, tiles) * sizeof(float);
}

int64_t scratch_bytes(const StageCall& call, int64_t tiles) {
    return call.channels == 16   ? scratch_bytes_of<16>(call, tiles)
           : call.channels == 32 ? scratch_bytes_of<32>(call, tiles)
                                 : scratch_bytes_of<64>(call, tiles);
}

template <int C>
void run_channels(const StageCall& call, const Task& task, const float* packed, float* scratch, double* const* partial,
                  int64_t parts) {
    switch (call.storage) {
        case Storage::float32:
            return Runner<C, Float>(call, task, packed, scratch, partial, parts).run();
        case Storage::float16:
            return Runner<C, Half>(call, task, packed, scratch, partial, parts).run();
        case Storage::bfloat16:
            return Runner<C, BFloat>(call, task, packed, scratch, partial, parts).run();
    }
}

void run(const StageCall& call, const Task& task, const void* packed, void* scratch, double* const* partial,
         int64_t parts) {
    const auto run = call.channels == 16 ? run_channels<16> : call.channels == 32 ? run_channels<32> : run_channels<64>;
    run(call, task, static_cast<const float*>(packed), static_cast<float*>(scratch), partial, parts);
}

}  // namespace

extern const StageKernels stage_kernels;
const StageKernels stage_kernels = {packed_bytes, pack_all, scratch_bytes, run};

}  // namespace famkern::FAMKERN_ISA
