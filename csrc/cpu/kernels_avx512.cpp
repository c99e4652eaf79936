// The kernels for AVX-512; compiled with the flags that CMakeLists.txt gives this file.
#define DOM2_VL 16
#define DOM2_ISA "avx512"
#define DOM2_KERNELS kernels_avx512
#include "kernels.inl"
