# The sweeps, one object library for each instruction set. Sets SWEEP_OBJECTS and SWEEP_DEFINITIONS.
#
# No contraction and no fast-math: results have the same bits everywhere. Vectorised loops need square roots that set no
# errno, and divisions that may run where their result is not used.
# For GCC and Clang. Other compilers fail here, and the package is installed without the kernel. `omp simd` tells Clang
# that arrays do not overlap and that sums may be added in any order.
if(NOT DEFINED LEVEL)
  set(LEVEL -O3)
endif()
add_compile_options(-ffp-contract=off)  # the scalars too
set(exact ${LEVEL} -fno-math-errno -fno-trapping-math -fopenmp-simd)

function(add_sweeps isa)
  add_library(sweep_${isa} OBJECT ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/sweep.cpp)
  target_compile_definitions(sweep_${isa} PRIVATE RMSPROP_ISA=${isa})
  target_compile_options(sweep_${isa} PRIVATE ${exact} ${ARGN})
  set(SWEEP_OBJECTS ${SWEEP_OBJECTS} $<TARGET_OBJECTS:sweep_${isa}> PARENT_SCOPE)
endfunction()

add_sweeps(baseline)
if(NOT BASELINE_ONLY AND CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set(SWEEP_DEFINITIONS RMSPROP_X86)
  add_sweeps(avx2 -mavx2)
  add_sweeps(avx512 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512)
endif()
