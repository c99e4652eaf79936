// Runs CUDA C++ kernels on the CPU, for tests on machines without a GPU. Plain C++20, no library.
//
// csrc/cuda/device.h includes this where the compiler is not nvcc. Every CUDA thread is a fiber,
// a stack of its own on the one host thread, and blocks run one after another.
//
// What it sees, besides wrong results:
//   - a barrier that not all threads of the block reach, lanes that wait at different collectives
//     or with different masks, a lane outside its mask, a mask with a lane that has exited;
//   - shared memory that is read before it is written (it starts as NaN bytes) or written outside
//     its bounds (guards, looked at when the block ends; under ASan at once, reads too);
//   - a cp.async without its wait (it lands only there, and the destination is NaN until then),
//     whose source changed on the way or whose destination was written meanwhile;
//   - wide accesses at addresses that are not multiples of their size;
//   - what depends on the order of threads, warps or blocks: run a kernel under all schedules and
//     some seeds (settings.h) and compare bits. `greedy` shows most missing barriers;
//   - under TSan (-fsanitize=thread, TSAN_OPTIONS=suppressions=csrc/testing/simt/tsan.supp) every
//   pair of
//     accesses without a barrier, collective or fenced atomic between them, in whatever order they
//     happened to run, with the kernel's source line. Blocks of one launch have no order.
//
// What it cannot see: compiler bugs, the rounding of ex2.approx and of the tensor cores' sums,
// occupancy, registers, limits of a launch beyond block size and shared memory, bank conflicts,
// time, and reorderings of memory operations: between two barriers a fiber's accesses happen in
// program order, all at once. Spinning until another thread or block does something never ends
// here. It is stricter than the hardware about exited lanes: every lane of a mask must be alive.
// TSan takes an atomic after a __threadfence() for a release of all its thread did until the
// atomic, not only until the fence, and it holds the last 2048 threads of a launch apart.
//
// An error aborts with the place in the grid and the kernel's line, or where DOM2_SIMT_THROW is
// defined is thrown from the launch as std::runtime_error. One host thread at a time may launch.
// Compile with -U_FORTIFY_SOURCE: its checks don't know that a stack can change.
#pragma once
#include "cuda_types.h"
#include "schedule.h"
#include "tensor.h"

namespace simt {

SIMT_INTERNAL inline unsigned char* dynamic_shared() { return detail::machine.shared; }

}  // namespace simt
