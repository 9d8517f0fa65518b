# bitloom_add_kernels(NAME SOURCE...): a shared library of kernels that the command line and Python load.
function(bitloom_add_kernels name)
  add_library(${name} SHARED ${ARGN})
  target_link_libraries(${name} PRIVATE bitloom::bitloom)
  target_compile_features(${name} PRIVATE cxx_std_20)
endfunction()
