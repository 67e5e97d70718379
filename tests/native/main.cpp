// Runs the native tests: exit status 0 if every check held.
#include <cstdio>

#include "check.h"

namespace famkern::test {
namespace {

int checks = 0, failures = 0;

}

void expect(bool holds, const std::string& what) {
    ++checks;
    if (!holds && ++failures <= 40) std::fprintf(stderr, "FAILED %s\n", what.c_str());
}

int run_all() {
    test_stages();
    test_convolution();
    test_affinity();
    std::string sets;
    for (InstructionSet isa : instruction_sets()) sets += " " + name_of(isa);
    std::printf("%d checks, %d failed; instruction sets:%s\n", checks, failures, sets.c_str());
    return failures == 0 ? 0 : 1;
}

}  // namespace famkern::test

int main() { return famkern::test::run_all(); }
