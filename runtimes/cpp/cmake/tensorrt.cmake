# TensorRT and TensorRT-RTX: each flavour whose headers are found is built in, and its library is loaded when it is needed,
# so that one libdit_deploy runs with both, with one, or with none.
#
# Headers are looked for in TENSORRT_ROOT and TENSORRT_RTX_ROOT (an unpacked archive), and for TensorRT in the system; CUDA's
# in CUDAToolkit_ROOT, CUDA_HOME and the usual places.
find_path(DIT_DEPLOY_CUDA_INCLUDE cuda_runtime_api.h HINTS ${CUDAToolkit_ROOT} $ENV{CUDAToolkit_ROOT} $ENV{CUDA_HOME} /usr/local/cuda
          PATH_SUFFIXES include targets/x86_64-linux/include targets/sbsa-linux/include)
find_path(DIT_DEPLOY_TENSORRT_INCLUDE NvInferRuntime.h HINTS ${TENSORRT_ROOT} $ENV{TENSORRT_ROOT} PATH_SUFFIXES include)
# Only where it is named: the headers are called as TensorRT's are.
find_path(DIT_DEPLOY_TENSORRT_RTX_INCLUDE NvInferRuntime.h PATHS ${TENSORRT_RTX_ROOT} $ENV{TENSORRT_RTX_ROOT}
          PATH_SUFFIXES include NO_DEFAULT_PATH)
mark_as_advanced(DIT_DEPLOY_CUDA_INCLUDE DIT_DEPLOY_TENSORRT_INCLUDE DIT_DEPLOY_TENSORRT_RTX_INCLUDE)

# dit_deploy_flavour(NAME INCLUDE DEFINITION …): the adapter compiled with the headers in INCLUDE.
function(dit_deploy_flavour name include)
  string(TOUPPER "DIT_DEPLOY_WITH_${name}" _with)
  if(NOT include)
    message(STATUS "${name}: not built in, no headers found")
    return()
  elseif(NOT DIT_DEPLOY_CUDA_INCLUDE)
    message(STATUS "${name}: not built in, no cuda_runtime_api.h found (CUDAToolkit_ROOT)")
    return()
  endif()
  message(STATUS "${name}: built in, with the headers in ${include}")
  set(_target "dit_deploy_${name}")
  add_library(${_target} OBJECT src/runtime/tensorrt/adapter.cpp)
  target_include_directories(${_target} PRIVATE include src)
  target_include_directories(${_target} SYSTEM PRIVATE "${include}" "${DIT_DEPLOY_CUDA_INCLUDE}")
  target_compile_definitions(${_target} PRIVATE ${ARGN} $<IF:$<BOOL:${BUILD_SHARED_LIBS}>,DIT_DEPLOY_BUILDING,DIT_DEPLOY_STATIC>)
  target_link_libraries(${_target} PRIVATE dit_deploy_flags)
  target_compile_definitions(dit_deploy_objects PRIVATE ${_with})
  set(DIT_DEPLOY_OBJECTS ${DIT_DEPLOY_OBJECTS} $<TARGET_OBJECTS:${_target}> PARENT_SCOPE)
endfunction()
