// The kernels for every processor of the architecture: no flags beyond the compiler's own defaults.
#define DOM2_VL 4
#define DOM2_ISA "base"
#define DOM2_KERNELS kernels_base
#include "kernels.inl"
