// Versions of functions that systems older than the one at hand have too, down to glibc 2.28 and the libstdc++ of
// GCC 8.
//
// The linker binds a function to its newest version. Of these two the version changed and what they do did not:
// pthread_sigmask moved from libpthread to libc, and wait() was declared noexcept.
#pragma once

#include <cstdlib>

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GLIBCXX__)
__asm__(".symver pthread_sigmask, pthread_sigmask@GLIBC_2.2.5");
__asm__(
    ".symver _ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE, "
    "_ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE@GLIBCXX_3.4.11");
#endif
