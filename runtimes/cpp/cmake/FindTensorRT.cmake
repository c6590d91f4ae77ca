# TensorRT or TensorRT-RTX: headers and library, as the target TensorRT::TensorRT.
#
# Looked for in TENSORRT_ROOT (an unpacked archive), in CMAKE_PREFIX_PATH and in the system. Sets TensorRT_FLAVOUR to
# "tensorrt" or "tensorrt-rtx": one library is built against one of them, as their headers have the same names.
set(_roots ${TENSORRT_ROOT} $ENV{TENSORRT_ROOT})
find_path(TensorRT_INCLUDE_DIR NvInferRuntime.h HINTS ${_roots} PATH_SUFFIXES include)
if(TensorRT_INCLUDE_DIR AND EXISTS "${TensorRT_INCLUDE_DIR}/NvInferVersion.h")
  file(STRINGS "${TensorRT_INCLUDE_DIR}/NvInferVersion.h" _rtx REGEX "define TRT_(MAJOR|MINOR|PATCH)_RTX [0-9]")
  file(STRINGS "${TensorRT_INCLUDE_DIR}/NvInferVersion.h" _lines REGEX "define (TRT|NV_TENSORRT)_(MAJOR|MINOR|PATCH)(_RTX|_ENTERPRISE)? [0-9]")
  set(TensorRT_VERSION "")
  foreach(_part MAJOR MINOR PATCH)
    string(REGEX MATCH "_${_part}[A-Z_]* ([0-9]+)" _found "${_lines}")
    list(APPEND TensorRT_VERSION "${CMAKE_MATCH_1}")
  endforeach()
  list(JOIN TensorRT_VERSION "." TensorRT_VERSION)
endif()
if(_rtx)
  set(TensorRT_FLAVOUR "tensorrt-rtx")
  set(_names tensorrt_rtx)
else()
  set(TensorRT_FLAVOUR "tensorrt")
  set(_names nvinfer)
endif()
find_library(TensorRT_LIBRARY NAMES ${_names} HINTS ${_roots} PATH_SUFFIXES lib lib64)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  TensorRT
  REQUIRED_VARS TensorRT_LIBRARY TensorRT_INCLUDE_DIR
  VERSION_VAR TensorRT_VERSION)
if(TensorRT_FOUND AND NOT TARGET TensorRT::TensorRT)
  add_library(TensorRT::TensorRT UNKNOWN IMPORTED)
  set_target_properties(TensorRT::TensorRT PROPERTIES IMPORTED_LOCATION "${TensorRT_LIBRARY}"
                                                      INTERFACE_INCLUDE_DIRECTORIES "${TensorRT_INCLUDE_DIR}")
endif()
mark_as_advanced(TensorRT_INCLUDE_DIR TensorRT_LIBRARY)
unset(_roots)
unset(_names)
unset(_rtx)
unset(_lines)
unset(_found)
