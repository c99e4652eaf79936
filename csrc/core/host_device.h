// For functions that run on the host and on a GPU.
#pragma once

#if defined(__CUDACC__)
#define DOM2_HD __host__ __device__
#else
#define DOM2_HD
#endif
