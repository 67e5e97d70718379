// The part of CUDA that csrc/cuda uses, on a CPU: one fiber a thread, blocks one after another.
//
// Made to show mistakes rather than to be fast. A warp runs as far as it gets, to the next barrier of its block, before
// another one starts, first to last or last to first: what one warp reads of another's without a barrier is not there
// yet, or gone already. Asynchronous copies happen when they are waited for. Shared memory is allocated anew for each
// block, of exactly the size it asked for, and all NaN.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <vector>

#define FAMKERN_DEVICE inline
#define FAMKERN_HOST_DEVICE
#define FAMKERN_KERNEL(threads, blocks) inline void
#define FAMKERN_UNROLL

namespace famkern::cuda {

namespace emulator {

// Small stacks, for a sanitizer clears what it knows of one whenever its fiber goes on.
constexpr int kWarp = 32, kStack = 32 * 1024;
enum class Waiting { nothing, warp, block };

struct Copy {
    void* to;
    const void* from;
};

struct Fiber {
    ucontext_t context;
    Waiting waiting = Waiting::nothing;
    bool done = false;
    std::vector<Copy> copies;
    std::unique_ptr<char[]> stack{new char[kStack]};
    char messages[2][64];  // to the other lanes of the warp: this one, and the last, which some may still read
    int sent = 0;
};

struct Index {
    unsigned x = 0, y = 0, z = 0;
};

struct Grid {
    std::vector<Fiber> fibers;
    ucontext_t scheduler;
    std::function<void()> body;
    std::unique_ptr<char[], void (*)(void*)> shared{nullptr, &std::free};
    int current = 0;
    bool backwards = false;  // order of warps, and of lanes within them
    Index block, blocks;
};

inline Grid grid;

// Bytes of maps, pictures and sums that went through global memory; parameters are not counted.
struct Traffic {
    int64_t read = 0, written = 0;
};

inline Traffic traffic;
inline int64_t shared_bytes = 0;  // most that a launch asked for

[[noreturn]] inline void fail(const char* what) {
    std::fprintf(stderr, "emulated GPU: %s (block %u, %u)\n", what, grid.block.x, grid.block.y);
    std::abort();
}

inline Fiber& fiber() { return grid.fibers[grid.current]; }

inline void wait(Waiting what) {
    Fiber& me = fiber();
    me.waiting = what;
    swapcontext(&me.context, &grid.scheduler);
}

inline void entry() {
    grid.body();
    Fiber& me = fiber();
    if (!me.copies.empty()) fail("a thread ended with copies that it did not wait for");
    me.done = true;
    swapcontext(&me.context, &grid.scheduler);
}

// Runs a warp until all of its lanes wait for the block or are done.
inline void run_warp(int first, int lanes) {
    for (;;) {
        int ran = 0, at_warp = 0, at_block = 0, done = 0;
        for (int i = 0; i < lanes; ++i) {
            grid.current = first + (grid.backwards ? lanes - 1 - i : i);
            Fiber& f = fiber();
            if (!f.done && f.waiting == Waiting::nothing) {
                ++ran;
                swapcontext(&grid.scheduler, &f.context);
            }
        }
        for (int i = 0; i < lanes; ++i) {
            const Fiber& f = grid.fibers[first + i];
            done += f.done;
            at_warp += !f.done && f.waiting == Waiting::warp;
            at_block += !f.done && f.waiting == Waiting::block;
        }
        if (at_warp == lanes) {
            for (int i = 0; i < lanes; ++i) grid.fibers[first + i].waiting = Waiting::nothing;
        } else if (at_warp > 0) {
            fail("some lanes of a warp are missing where all must meet");
        } else if (ran == 0 || at_block + done == lanes) {
            return;
        }
    }
}

inline void run_block(int threads, int64_t shared) {
    // The last cache line is shortened to what was asked for, so that a sanitizer sees the first byte beyond.
    grid.shared.reset(static_cast<char*>(std::malloc(size_t(shared))));
    if (grid.shared == nullptr) throw std::bad_alloc();
    std::memset(grid.shared.get(), 0xff, size_t(shared));
    if (int(grid.fibers.size()) != threads) grid.fibers = std::vector<Fiber>(size_t(threads));
    for (Fiber& f : grid.fibers) {
        getcontext(&f.context);
        f.context.uc_stack.ss_sp = f.stack.get();
        f.context.uc_stack.ss_size = kStack;
        f.context.uc_link = nullptr;
        f.waiting = Waiting::nothing;
        f.done = false;
        makecontext(&f.context, entry, 0);
    }
    const int warps = (threads + kWarp - 1) / kWarp;
    for (int done = 0; done < threads;) {
        for (int w = 0; w < warps; ++w) {
            const int warp = grid.backwards ? warps - 1 - w : w, first = warp * kWarp;
            run_warp(first, threads - first < kWarp ? threads - first : kWarp);
        }
        done = 0;
        for (const Fiber& f : grid.fibers) done += f.done;
        if (done != 0 && done != threads) fail("some threads ended where others wait for them");
        for (Fiber& f : grid.fibers) f.waiting = Waiting::nothing;
    }
}

inline int launch(int64_t blocks, int64_t images, int threads, int64_t shared, std::function<void()> body) {
    grid.body = std::move(body);
    shared_bytes = shared > shared_bytes ? shared : shared_bytes;
    grid.blocks = {unsigned(blocks), unsigned(images), 1};
    for (int64_t i = 0; i < blocks * images; ++i) {
        const int64_t at = grid.backwards ? blocks * images - 1 - i : i;
        grid.block = {unsigned(at % blocks), unsigned(at / blocks), 0};
        run_block(threads, shared);
    }
    return 0;
}

template <class Message>
void put(const Message& message) {
    static_assert(sizeof message <= sizeof Fiber::messages[0]);
    Fiber& me = fiber();
    std::memcpy(me.messages[++me.sent % 2], &message, sizeof message);
}

template <class Message>
Message from_lane(int lane) {
    Message message;
    const int sent = fiber().sent;  // a lane that is ahead has said something since
    std::memcpy(&message, grid.fibers[grid.current / kWarp * kWarp + lane].messages[sent % 2], sizeof message);
    return message;
}

// All lanes exchange a message, which use() reads before the next one but one.
template <class Message, class Use>
void exchange(const Message& message, const Use& use) {
    put(message);
    wait(Waiting::warp);
    use();
}

struct ThreadIndex {
    struct {
        operator unsigned() const { return unsigned(grid.current); }
    } x;
};

}  // namespace emulator

#define threadIdx (famkern::cuda::emulator::ThreadIndex())
#define blockIdx (famkern::cuda::emulator::grid.block)
#define gridDim (famkern::cuda::emulator::grid.blocks)

#define FAMKERN_LAUNCH(kernel, blocks, images, threads, shared, stream, ...) \
    ((void)(stream), famkern::cuda::emulator::launch(blocks, images, threads, shared, [=] { kernel(__VA_ARGS__); }))

inline char* shared_memory() { return emulator::grid.shared.get(); }

inline void copy16(void* to, const void* from, bool inside) {
    if (reinterpret_cast<uintptr_t>(to) % 16 != 0 || (inside && reinterpret_cast<uintptr_t>(from) % 16 != 0))
        emulator::fail("a copy of 16 bytes that are not aligned");
    emulator::fiber().copies.push_back({to, inside ? from : nullptr});
    emulator::traffic.read += inside ? 16 : 0;
}

template <class T>
T load(const T* from) {
    emulator::traffic.read += sizeof(T);
    return *from;
}
template <class T>
void store(T* to, const T& value) {
    emulator::traffic.written += sizeof(T);
    *to = value;
}

inline void wait_for_copies() {
    for (const emulator::Copy& copy : emulator::fiber().copies)
        copy.from != nullptr ? std::memcpy(copy.to, copy.from, 16) : std::memset(copy.to, 0, 16);
    emulator::fiber().copies.clear();
}

inline void barrier() { emulator::wait(emulator::Waiting::block); }

inline uint32_t other_lane(uint32_t value, int mask) {
    emulator::exchange(value, [&] { value = emulator::from_lane<uint32_t>((emulator::grid.current % 32) ^ mask); });
    return value;
}
inline float other_lane(float value, int mask) {
    emulator::exchange(value, [&] { value = emulator::from_lane<float>((emulator::grid.current % 32) ^ mask); });
    return value;
}

inline void load_matrices(uint32_t (&registers)[4], const void* row) {
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0) emulator::fail("a row of a matrix that is not aligned");
    struct Row {
        uint32_t pairs[4];
    } mine;  // as it is now: other lanes may be ahead, or behind
    std::memcpy(&mine, row, sizeof mine);
    const int lane = emulator::grid.current % 32;
    emulator::exchange(mine, [&] {
        for (int m = 0; m < 4; ++m) registers[m] = emulator::from_lane<Row>(8 * m + lane / 4).pairs[lane % 4];
    });
}

inline uint16_t bits_of(float value, Half) {
    const _Float16 half = _Float16(value);
    uint16_t bits;
    std::memcpy(&bits, &half, 2);
    return bits;
}
inline float value_of(Half h) {
    _Float16 half;
    std::memcpy(&half, &h.bits, 2);
    return float(half);
}
inline float value_of(BFloat b) {
    const uint32_t bits = uint32_t(b.bits) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}
inline uint16_t bits_of(float value, BFloat) {  // to the nearest, ties to even
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return value != value ? 0x7fc0 : uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline float exponential(float x) { return std::exp(x); }
inline float float_of(uint32_t word) {
    float value;
    std::memcpy(&value, &word, 4);
    return value;
}
inline uint32_t word_of(float value) {
    uint32_t word;
    std::memcpy(&word, &value, 4);
    return word;
}

template <class T>
void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, T) {
    struct Operands {
        uint32_t a[4], b[2];
    };
    const int lane = emulator::grid.current % 32, g = lane / 4, q = lane % 4;
    float left[2][16], right[2][16];  // rows g and g + 8 of a, columns 2 q and 2 q + 1 of b
    emulator::exchange(Operands{{a[0], a[1], a[2], a[3]}, {b0, b1}}, [&] {
        const auto unpack = [](float* to, uint32_t pair) {
            to[0] = value_of(T{uint16_t(pair)});
            to[1] = value_of(T{uint16_t(pair >> 16)});
        };
        for (int i = 0; i < 2; ++i)
            for (int pair = 0; pair < 4; ++pair) {
                const Operands row = emulator::from_lane<Operands>(4 * g + pair);
                const Operands column = emulator::from_lane<Operands>(4 * (2 * q + i) + pair);
                for (int half = 0; half < 2; ++half) {
                    unpack(left[i] + 8 * half + 2 * pair, row.a[i + 2 * half]);
                    unpack(right[i] + 8 * half + 2 * pair, column.b[half]);
                }
            }
    });
    for (int i = 0; i < 4; ++i) {
        float sum = 0;
        for (int k = 0; k < 16; ++k) sum += left[i / 2][k] * right[i % 2][k];
        c[i] += sum;
    }
}

}  // namespace famkern::cuda
