// Runs the native tests: exit status 0 if every check held.
#include <cstdio>

#include "check.h"

namespace famkern::test {

int run_all() {
    test_stages();
    test_convolution();
    test_affinity();
    test_scale();
    std::string sets;
    for (InstructionSet isa : instruction_sets()) sets += " " + name_of(isa);
    std::printf("%d checks, %d failed; instruction sets:%s\n", checks, failures, sets.c_str());
    return failures == 0 ? 0 : 1;
}

}  // namespace famkern::test

int main() { return famkern::test::run_all(); }
