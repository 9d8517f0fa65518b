# MLIR and LLVM, by their shared libraries or, for what is shipped, as one static group.
find_package(MLIR REQUIRED CONFIG) # no version argument: the package refuses one
list(APPEND CMAKE_MODULE_PATH ${MLIR_CMAKE_DIR} ${LLVM_CMAKE_DIR})
include(TableGen)
include(AddLLVM)
include(AddMLIR)

add_library(bitloom_mlir INTERFACE)
target_include_directories(bitloom_mlir SYSTEM INTERFACE ${LLVM_INCLUDE_DIRS} ${MLIR_INCLUDE_DIRS})
if(CMAKE_CXX_COMPILER_ID MATCHES Clang)
  # A precompiled header that holds no times is the same bytes in every checkout, so ccache finds what was built on it.
  target_compile_options(bitloom_mlir INTERFACE "SHELL:-Xclang -fno-pch-timestamp")
endif()
if(BITLOOM_STATIC_MLIR)
  # MLIR's imported targets drag in libLLVM.so, so name the archives: all of MLIR in one group, then LLVM's own closure.
  file(GLOB mlir_archives ${LLVM_LIBRARY_DIR}/libMLIR*.a)
  list(FILTER mlir_archives EXCLUDE REGEX "CAPI|Test|MLIRMlir|MlirOpt|Lsp")
  execute_process(COMMAND ${LLVM_TOOLS_BINARY_DIR}/llvm-config --link-static --libs nvptx x86 aarch64 orcjit passes
                  OUTPUT_VARIABLE llvm_archives OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
  separate_arguments(llvm_archives)
  target_link_directories(bitloom_mlir INTERFACE ${LLVM_LIBRARY_DIR})
  # zlib and zstd by their archives too, so that what is shipped needs libc and libstdc++ alone.
  target_link_options(bitloom_mlir INTERFACE -Wl,--gc-sections -Wl,--as-needed)
  target_link_libraries(bitloom_mlir INTERFACE -Wl,--start-group ${mlir_archives} -Wl,--end-group ${llvm_archives}
                        -l:libz.a -l:libzstd.a dl m rt)
else()
  target_link_libraries(bitloom_mlir INTERFACE MLIR LLVM)
endif()
