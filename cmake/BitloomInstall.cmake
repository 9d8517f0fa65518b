# What find_package(bitloom) needs, in the build folder as in an installation: give either as CMAKE_PREFIX_PATH.
include(CMakePackageConfigHelpers)
set(package_folder lib/cmake/bitloom)
set(package_files ${CMAKE_SOURCE_DIR}/cmake/BitloomAddKernels.cmake ${CMAKE_SOURCE_DIR}/cmake/BitloomAheadOfTime.cmake
                  ${CMAKE_BINARY_DIR}/${package_folder}/bitloomConfig.cmake
                  ${CMAKE_BINARY_DIR}/${package_folder}/bitloomConfigVersion.cmake)
configure_package_config_file(${CMAKE_SOURCE_DIR}/cmake/bitloomConfig.cmake.in
                              ${CMAKE_BINARY_DIR}/${package_folder}/bitloomConfig.cmake
                              INSTALL_DESTINATION ${package_folder})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/${package_folder}/bitloomConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
file(COPY ${CMAKE_SOURCE_DIR}/cmake/BitloomAddKernels.cmake ${CMAKE_SOURCE_DIR}/cmake/BitloomAheadOfTime.cmake
     DESTINATION ${CMAKE_BINARY_DIR}/${package_folder})

install(TARGETS bitloom EXPORT bitloomTargets LIBRARY DESTINATION lib)
install(EXPORT bitloomTargets NAMESPACE bitloom:: DESTINATION ${package_folder})
export(EXPORT bitloomTargets NAMESPACE bitloom:: FILE ${CMAKE_BINARY_DIR}/${package_folder}/bitloomTargets.cmake)
install(FILES ${package_files} DESTINATION ${package_folder})
# The headers that a kernel or a program includes: lib and the public ones of dsl.
install(DIRECTORY lib dsl DESTINATION include/bitloom
        FILES_MATCHING PATTERN "*.h" PATTERN "*.def" PATTERN "internal" EXCLUDE)
