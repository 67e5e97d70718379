// libstdc++ counts references without atomic instructions while this variable of glibc's, which came with 2.32, says
// that there is one thread. PyTorch has more from the start; our own, which never says so, spares the need for a new
// glibc.
extern "C" {
__attribute__((visibility("hidden"))) char __libc_single_threaded = 0;
}
