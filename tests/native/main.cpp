// Runs the native tests, with the argument "quick" a part of them: exit status 0 if every check held. With "counted",
// what a profiler counts instead.
#include <cstdio>
#include <string>

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

int main(int count, char** arguments) {
    const std::string argument = count > 1 ? arguments[1] : "";
    if (argument == "counted") return famkern::test::run_counted(), 0;
    famkern::test::quick = argument == "quick";
    return famkern::test::run_all();
}
