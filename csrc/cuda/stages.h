// The stages of the network on an NVIDIA GPU; knows no torch. A call is that of the CPU's stages (cpu/stage.h) with
// everything in device memory: maps of 16 channels in float16 or bfloat16, parameters, gates and pictures in float32.
#pragma once

#include <cstdint>

#include "cpu/stage.h"

namespace famkern::cuda {

constexpr int64_t kMostMaps = 8;  // that a tail adds up

// Bytes of device memory that a call works in, on 16-byte boundaries.
int64_t workspace_bytes(const StageCall& call);

// Starts a call on a stream of CUDA's; does not wait for it. `multiprocessors` of the device decide how many blocks the
// call is cut into, which leaves every bit as it is.
//
// Returns 0, or CUDA's error.
int run_stage(const StageCall& call, void* workspace, int multiprocessors, void* stream);

// The same on a device of this number, whose multiprocessors it counts. Not in the emulator.
int run_stage_on(int device, const StageCall& call, void* workspace, void* stream);

// What an error means. Not in the emulator.
const char* error_text(int error);

}  // namespace famkern::cuda
