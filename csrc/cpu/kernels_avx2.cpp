// The kernels for AVX2 with FMA; compiled with the flags that CMakeLists.txt gives this file.
#define DOM2_VL 8
#define DOM2_ISA "avx2"
#define DOM2_KERNELS kernels_avx2
#include "kernels.inl"
