// The kernels for 64-bit ARM, whose 32 vector registers hold a larger tile than the base one; no
// flags beyond the compiler's own defaults.
#define DOM2_VL 4
#define DOM2_ISA "neon"
#define DOM2_KERNELS kernels_neon
#define DOM2_NEON
#include "kernels.inl"
