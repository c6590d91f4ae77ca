# ONNX Runtime: headers and library, as the target onnxruntime::onnxruntime.
#
# Looked for in ONNXRUNTIME_ROOT (the unpacked official archive, or any prefix), in CMAKE_PREFIX_PATH, in what prepare.sh
# fetched, and in the system. Its own package configuration is asked last: the one in the official archives names folders
# that the archives do not have (microsoft/onnxruntime#26186), and stops CMake.
set(_roots ${ONNXRUNTIME_ROOT} $ENV{ONNXRUNTIME_ROOT})
set(_suffixes include/onnxruntime include include/onnxruntime/core/session onnxruntime)
if(_roots)  # before CMAKE_PREFIX_PATH, which CMake puts above hints
  find_path(OnnxRuntime_INCLUDE_DIR onnxruntime_cxx_api.h PATHS ${_roots} PATH_SUFFIXES ${_suffixes} NO_DEFAULT_PATH)
  find_library(OnnxRuntime_LIBRARY onnxruntime PATHS ${_roots} PATH_SUFFIXES lib lib64 NO_DEFAULT_PATH)
endif()
find_path(OnnxRuntime_INCLUDE_DIR onnxruntime_cxx_api.h PATH_SUFFIXES ${_suffixes})
find_library(OnnxRuntime_LIBRARY onnxruntime PATH_SUFFIXES lib lib64)

if(NOT (OnnxRuntime_INCLUDE_DIR AND OnnxRuntime_LIBRARY))
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
unset(_advice)
unset(_line)
unset(_api)
