// All kernels of one instruction set, as one table. kernels_<isa>.cpp defines DOM2_VL (floats per
// vector), DOM2_ISA (its name), DOM2_KERNELS (the table's name) and, for processors that multiply
// bf16 numbers, DOM2_BF16, for those of 64-bit ARM DOM2_NEON.
//
// No std:: or torch headers in here and nothing with external linkage but the table: an inline
// function compiled for AVX-512 could be merged by the linker into code that runs on every
// processor.
#include <stdint.h>

#include "../core/alias.h"
#include "../core/opcodes.h"
#include "../core/philox.h"
#include "exec.h"
#if DOM2_VL == 16
#include <immintrin.h>
#elif defined(DOM2_NEON)
#include <arm_neon.h>
#endif

namespace dom2 {
namespace cpu {
namespace {

// clang-format off: each part uses the ones before it
#include "vector.inl"
#include "gemm.inl"
#include "pack.inl"
#include "denoise_kernel.inl"
#include "denoise_backward.inl"
#include "losses.inl"
#include "sample_transitions_kernel.inl"
// clang-format on

}  // namespace

extern const Kernels DOM2_KERNELS;
const Kernels DOM2_KERNELS = {
    DOM2_ISA, MR, pack, forward, backward, denoising_loss, conservative_loss, chain_value, sample};

}  // namespace cpu
}  // namespace dom2
