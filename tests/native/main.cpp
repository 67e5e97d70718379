// Runs the native tests, with the argument "quick" a part of them: exit status 0 if every check held.
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

int main(int count, char** arguments) {
    famkern::test::quick = count > 1 && std::string(arguments[1]) == "quick";
    return famkern::test::run_all();
}
