# ONNX Runtime: headers and library, as the target onnxruntime::onnxruntime.
#
# Looked for in ONNXRUNTIME_ROOT (the unpacked official archive, or any prefix) alone where that is given; else in
# CMAKE_PREFIX_PATH, in what prepare.sh fetched, and in the system. Its own package configuration is asked last: the one in
# the official archives names folders that the archives do not have (microsoft/onnxruntime#26186), and stops CMake.
set(_roots ${ONNXRUNTIME_ROOT} $ENV{ONNXRUNTIME_ROOT})
set(_suffixes include/onnxruntime include include/onnxruntime/core/session onnxruntime)
set(_only "")
if(_roots)  # what was named is meant, and not another one
  set(_only NO_DEFAULT_PATH)
endif()
find_path(OnnxRuntime_INCLUDE_DIR onnxruntime_cxx_api.h HINTS ${_roots} PATH_SUFFIXES ${_suffixes} ${_only})
find_library(OnnxRuntime_LIBRARY onnxruntime HINTS ${_roots} PATH_SUFFIXES lib lib64 ${_only})

if(NOT _roots AND NOT (OnnxRuntime_INCLUDE_DIR AND OnnxRuntime_LIBRARY))
  find_package(onnxruntime CONFIG QUIET)
  if(onnxruntime_FOUND AND TARGET onnxruntime::onnxruntime)
    set(OnnxRuntime_VERSION ${onnxruntime_VERSION})
    set(OnnxRuntime_CONFIG ${onnxruntime_CONFIG})
  endif()
endif()

if(OnnxRuntime_INCLUDE_DIR)
  file(STRINGS "${OnnxRuntime_INCLUDE_DIR}/onnxruntime_c_api.h" _line REGEX "^#define ORT_API_VERSION [0-9]+")
  string(REGEX MATCH "[0-9]+" _api "${_line}")
  set(OnnxRuntime_VERSION "1.${_api}")
endif()

include(FindPackageHandleStandardArgs)
set(_advice "run runtimes/cpp/prepare.sh, or give the unpacked official archive: -DONNXRUNTIME_ROOT=FOLDER")
if(OnnxRuntime_CONFIG)
  find_package_handle_standard_args(OnnxRuntime REQUIRED_VARS OnnxRuntime_CONFIG VERSION_VAR OnnxRuntime_VERSION)
else()
  find_package_handle_standard_args(
    OnnxRuntime
    REQUIRED_VARS OnnxRuntime_LIBRARY OnnxRuntime_INCLUDE_DIR
    VERSION_VAR OnnxRuntime_VERSION
    REASON_FAILURE_MESSAGE "${_advice}")
endif()

if(OnnxRuntime_FOUND AND NOT TARGET onnxruntime::onnxruntime)
  add_library(onnxruntime::onnxruntime UNKNOWN IMPORTED)
  set_target_properties(
    onnxruntime::onnxruntime PROPERTIES IMPORTED_LOCATION "${OnnxRuntime_LIBRARY}" INTERFACE_INCLUDE_DIRECTORIES
                                                                                   "${OnnxRuntime_INCLUDE_DIR}")
endif()
mark_as_advanced(OnnxRuntime_INCLUDE_DIR OnnxRuntime_LIBRARY)
unset(_roots)
unset(_suffixes)
unset(_only)
unset(_advice)
unset(_line)
unset(_api)
