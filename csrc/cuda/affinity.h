// The feature affinity on an NVIDIA GPU: the operators of famkern/ops/affinity_maps.py for pairs of few channels,
// without torch. Maps may have any strides; everything lies in device memory.
#pragma once

#include <cstdint>

#include "cpu/affinity.h"

namespace famkern::cuda {

constexpr int64_t kMostChannels = 8;  // of a feature map

// maps = [S' - T'; S' + T'] and gram = maps maps^T. Float32, float16 and bfloat16 features, each of its own type.
struct AffinityMaps {
    FeatureMap student, teacher;
    int64_t images, rows, columns;  // of the pooled grid
    float* maps;                    // (images, 2 C, rows * columns), C channels of the wider one
    double* gram;                   // (images, 2 C, 2 C), of maps before they are rounded

    int64_t channels() const { return student.channels > teacher.channels ? student.channels : teacher.channels; }
    int64_t positions() const { return rows * columns; }
};

// gradient = coefficients maps / pool^2 at every pixel of a window; what windows leave over stays as it is.
struct AffinitySpread {
    FeatureMap gradient;
    int64_t images, rows, columns;
    int64_t height;              // of maps: at most 2 kMostChannels
    const float* maps;           // (images, height, rows * columns)
    const double* coefficients;  // (images, channels, height)
};

// Bytes of device memory that a call works in.
int64_t workspace_bytes(const AffinityMaps& call);

// Start a call on a stream of CUDA's and do not wait for it. Return 0, or CUDA's error.
int run_affinity_maps(const AffinityMaps& call, void* workspace, void* stream);
int run_affinity_spread(const AffinitySpread& call, void* stream);

// The same on a device of this number. Not in the emulator.
int run_affinity_maps_on(int device, const AffinityMaps& call, void* workspace, void* stream);
int run_affinity_spread_on(int device, const AffinitySpread& call, void* stream);

}  // namespace famkern::cuda
