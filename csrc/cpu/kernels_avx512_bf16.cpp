// The kernels for AVX-512 with products of bf16 numbers; compiled with the flags that
// CMakeLists.txt gives this file.
#define DOM2_VL 16
#define DOM2_ISA "avx512_bf16"
#define DOM2_KERNELS kernels_avx512_bf16
#define DOM2_BF16
#include "kernels.inl"
