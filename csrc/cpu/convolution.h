// One call of a training operator as plain data; contracts are in famkern/ops/{conv,gate}.py. Maps are contiguous
// float32 (B, H, W, C).
//
// The work is cut into tasks, runs of rows of one image. How many there are depends on the shape alone, and what they
// sum is added up in their order: the results are the same whatever the number of threads.
#pragma once

#include <cstdint>

namespace famkern {

constexpr int64_t kMostTasks = 16;  // of a call with one image; more threads than that find nothing to do

struct Rows {
    int64_t batch, height, width;
    int channels;
    int64_t rows_each;  // of a task; a multiple of 4

    int64_t tasks_each() const { return (height + rows_each - 1) / rows_each; }  // of an image
    int64_t tasks() const { return batch * tasks_each(); }
};

// Forward: y = conv(x) + bias, or relu(conv(x) + bias) + x. Backward: g is the gradient of conv(x) + bias.
struct ConvolutionJob {
    Rows rows;
    bool residual;
    const float* packed;  // transformed weights: of the convolution, or of its adjoint
    const float* bias;
    const float* x;
    const float* y;         // backward of a residual one
    const float* gradient;  // (B, H, W, C) of y, or null for zero
    const float* offset;    // (B, C) added to the gradient of every pixel, or null
    float* out;             // y, or the gradient of x, or null if nobody wants that
    double* sums;           // (tasks, C) of y, or of g
    float* products;        // (tasks, 36, C, C): the gradient of the transformed weights
};

struct ConvolutionKernels {
    int64_t (*packed_floats)(int channels);
    void (*pack)(const float* weight, int channels, float* packed);
    int64_t (*scratch_floats)(const Rows&);
    void (*forward)(const ConvolutionJob&, int64_t task, float* scratch);
    void (*backward)(const ConvolutionJob&, int64_t task, float* scratch);
};

// out = z g sigmoid(w2 relu(w1 z g + b1) + b2) + x.
struct GateJob {
    Rows rows;
    const float* x;  // or null for zero
    const float* z;
    const float* gate;      // (B, C)
    const float* pixel[4];  // w1 (C/8, C), b1 (C/8,), w2 (1, C/8), b2 (1,)
    const float* gradient;  // of out
    float* out;             // or the gradient of z
    double* sums;           // (tasks, gate_sums(C)): gradients of the gate, w1, b1, w2, b2
};

constexpr int64_t gate_sums(int channels) { return channels + channels / 8 * (channels + 2) + 1; }

struct GateKernels {
    void (*forward)(const GateJob&, int64_t task);
    void (*backward)(const GateJob&, int64_t task);
};

}  // namespace famkern
