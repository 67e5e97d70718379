// Every stage once between two calls of a mark, so that a profiler which dumps at the mark counts each by itself; see
// tests/native/instructions.py. The names go to standard output, in their order.
#include "cpu/tasks.h"
#include "stage_cases.h"

namespace famkern {

FAMKERN_KERNELS(StageKernels, stage_kernels)

namespace test {

__attribute__((noinline)) void famkern_mark() { asm volatile(""); }

void run_counted() {
    const InstructionSet isa = InstructionSet::avx2;
    if (!supported(isa)) return;
    for (const Stage& stage : kStages)
        for (int channels : {16, 32, 64}) {
            const Case c(stage, channels, 1, 24, 76);
            computed(c, Type::float32, 24, 0, [&](const StageCall& call) {
                famkern_mark();
                run_stage(FAMKERN_TABLE(stage_kernels, isa), call, 1);
                famkern_mark();
            });
            std::printf("%s, %d channels\n", stage.name, channels);
        }
}

}  // namespace test
}  // namespace famkern
