# Finds nvcc and decides for which cards to compile; included by ../../CMakeLists.txt where DOM2_CUDA
# is ON, before any CUDA target. Sets DOM2_CUDA_CODE: what the binary holds, e.g. "sm_80 compute_90".

# One host compiler for everything, but where CUDAHOSTCXX names another.
if(NOT CMAKE_CUDA_HOST_COMPILER AND NOT DEFINED ENV{CUDAHOSTCXX})
  set(CMAKE_CUDA_HOST_COMPILER ${CMAKE_CXX_COMPILER})
endif()

# A100 and H100 get their own code, cards between and after them the code of the older one (binaries
# run on all later cards of the same major version), newer ones compile the PTX when first used.
if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90-real 90-virtual)
endif()

include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  message(FATAL_ERROR "DOM2_CUDA=ON needs nvcc, of CUDA 12.1 or newer, on PATH or named by CUDACXX; "
    "none was found that works with ${CMAKE_CUDA_HOST_COMPILER}. DOM2_FAST_CUDA=0 builds without it")
endif()
enable_language(CUDA)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.1)
  message(FATAL_ERROR "CUDA ${CMAKE_CUDA_COMPILER_VERSION} is too old: 12.1 or newer is needed, for "
    "kernel parameters of more than 4 KiB. DOM2_FAST_CUDA=0 builds without it")
endif()

foreach(list native all all-major)
  if(CMAKE_CUDA_ARCHITECTURES STREQUAL list)
    string(TOUPPER ${list} name)
    string(REPLACE "-" "_" name ${name})
    set(CMAKE_CUDA_ARCHITECTURES ${CMAKE_CUDA_ARCHITECTURES_${name}})
    if(NOT CMAKE_CUDA_ARCHITECTURES MATCHES "^[0-9]")  # nvcc's words where there is no card
      message(FATAL_ERROR "CMAKE_CUDA_ARCHITECTURES is ${list}, but there is no card or no driver "
        "here to ask: give numbers, for example 80-real;90")
    endif()
  endif()
endforeach()
set(DOM2_CUDA_CODE)
foreach(arch ${CMAKE_CUDA_ARCHITECTURES})
  if(NOT arch MATCHES "^([0-9]+[af]?)(-real|-virtual)?$")
    message(FATAL_ERROR "CMAKE_CUDA_ARCHITECTURES: what is ${arch}? Give numbers, for example "
      "80-real;90 (-real: binary only, -virtual: PTX only)")
  endif()
  if(NOT CMAKE_MATCH_2 STREQUAL "-virtual")
    list(APPEND DOM2_CUDA_CODE sm_${CMAKE_MATCH_1})
  endif()
  if(NOT CMAKE_MATCH_2 STREQUAL "-real")
    list(APPEND DOM2_CUDA_CODE compute_${CMAKE_MATCH_1})
  endif()
endforeach()
list(JOIN DOM2_CUDA_CODE " " DOM2_CUDA_CODE)
message(STATUS "CUDA executors: CUDA ${CMAKE_CUDA_COMPILER_VERSION}, ${DOM2_CUDA_CODE}")
