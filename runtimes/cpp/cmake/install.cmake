# What `cmake --install` puts where, and the package that find_package(dit_deploy) finds.
include(CMakePackageConfigHelpers)
set(_package "${CMAKE_INSTALL_LIBDIR}/cmake/dit_deploy")

# An installed library finds ONNX Runtime beside itself, or where it was when this was built.
get_filename_component(_onnxruntime "${OnnxRuntime_LIBRARY}" DIRECTORY)
set(DIT_DEPLOY_INSTALL_RPATH "$ORIGIN;${_onnxruntime}" CACHE STRING "Where the installed library looks for ONNX Runtime's")
file(RELATIVE_PATH _lib_from_bin "/${CMAKE_INSTALL_BINDIR}" "/${CMAKE_INSTALL_LIBDIR}")
set_target_properties(dit_deploy PROPERTIES INSTALL_RPATH "${DIT_DEPLOY_INSTALL_RPATH}")
set(DIT_DEPLOY_PROGRAM_RPATH "$ORIGIN/${_lib_from_bin}")

install(
  TARGETS dit_deploy
  EXPORT dit_deployTargets
  RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR}
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY include/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h" PATTERN "*.hpp")
install(EXPORT dit_deployTargets NAMESPACE dit_deploy:: DESTINATION ${_package})

configure_package_config_file(cmake/dit_deployConfig.cmake.in "${CMAKE_CURRENT_BINARY_DIR}/dit_deployConfig.cmake"
                              INSTALL_DESTINATION ${_package})
# Below 1.0 a minor version may change the interface.
write_basic_package_version_file("${CMAKE_CURRENT_BINARY_DIR}/dit_deployConfigVersion.cmake"
                                 COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/dit_deployConfig.cmake" "${CMAKE_CURRENT_BINARY_DIR}/dit_deployConfigVersion.cmake"
              cmake/FindOnnxRuntime.cmake DESTINATION ${_package})
