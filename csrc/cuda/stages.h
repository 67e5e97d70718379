// The stages of the network on an NVIDIA GPU; knows no torch. A call is that of the CPU's stages (cpu/stage.h) with
// everything in device memory: maps of 16 channels in float16 or bfloat16, parameters, gates and pictures in float32.
#pragma once

#include <cstdint>

#include "cpu/stage.h"

namespace famkern::cuda {

constexpr int64_t kMostMaps = 8;  // that a tail adds up

// Bytes of device memory that a call works in, on 16-byte boundaries.
int64_t workspace_bytes(const StageCall& call);

// What decides how many blocks a call is cut into and what they keep in shared memory; it leaves every bit as it is.
struct Device {
    int64_t multiprocessors;
    int64_t shared;  // bytes of shared memory of a multiprocessor
};

// Starts a call on a stream of CUDA's; does not wait for it. Returns 0, or CUDA's error.
int run_stage(const StageCall& call, void* workspace, const Device& device, void* stream);

// The same on a device of this number, which is asked what it has. Not in the emulator.
int run_stage_on(int device, const StageCall& call, void* workspace, void* stream);

// The CUDA of the driver, 0 without one, and of the compiler: 1000 major + 10 minor. Not in the emulator.
void versions(int (&of)[2]);

// What an error means. Not in the emulator.
const char* error_text(int error);

}  // namespace famkern::cuda
