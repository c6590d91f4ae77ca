# The library: dit_deploy_objects, which the tests link to reach what is hidden, and dit_deploy made of them.
file(GLOB _sources CONFIGURE_DEPENDS src/*.cpp src/bundle/*.cpp src/sampling/*.cpp src/sampling/solvers/*.cpp
     src/runtime/*.cpp src/tokenizer/*.cpp)

# The fused INT8 operators choose an instruction set by g++'s pragmas, which clang does not know.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_GREATER_EQUAL 11 AND UNIX AND NOT APPLE)
  set(_cpu_ops ON)
  list(FILTER _sources EXCLUDE REGEX "/no_cpu_ops\\.cpp$")
else()
  set(_cpu_ops OFF)
  list(FILTER _sources EXCLUDE REGEX "/cpu_ops\\.cpp$")
endif()
message(STATUS "Fused INT8 operators for CPUs: ${_cpu_ops}")

add_library(dit_deploy_objects OBJECT ${_sources})
target_include_directories(dit_deploy_objects PUBLIC include src)
target_compile_definitions(
  dit_deploy_objects
  PUBLIC $<IF:$<BOOL:${BUILD_SHARED_LIBS}>,DIT_DEPLOY_BUILDING,DIT_DEPLOY_STATIC>
  PRIVATE DIT_DEPLOY_VERSION="${PROJECT_VERSION}")
target_link_libraries(dit_deploy_objects PUBLIC dit_deploy_flags nlohmann_json::nlohmann_json onnxruntime::onnxruntime
                                                Threads::Threads ${CMAKE_DL_LIBS})

# Everything that the library is made of.
set(DIT_DEPLOY_OBJECTS $<TARGET_OBJECTS:dit_deploy_objects>)
if(_cpu_ops)
  # As runtimes/cpu_ops/library.py compiles them, so that both give the same numbers; tests/runtimes/cpu_ops has them under the
  # sanitizers.
  file(GLOB _cpu_ops_sources CONFIGURE_DEPENDS ../cpu_ops/src/*.cpp)
  add_library(dit_deploy_cpu_ops OBJECT ${_cpu_ops_sources})
  target_compile_features(dit_deploy_cpu_ops PRIVATE cxx_std_17)
  target_compile_definitions(dit_deploy_cpu_ops PRIVATE DIT_CPU_OPS_BUILT_IN)
  target_compile_options(dit_deploy_cpu_ops PRIVATE -O3 -fwrapv -Wall -Wextra -Wno-psabi -Wno-maybe-uninitialized
                                                    $<$<BOOL:${DIT_DEPLOY_SANITIZE}>:-fno-sanitize=all>)
  list(APPEND DIT_DEPLOY_OBJECTS $<TARGET_OBJECTS:dit_deploy_cpu_ops>)
endif()
dit_deploy_flavour(tensorrt "${DIT_DEPLOY_TENSORRT_INCLUDE}")
dit_deploy_flavour(tensorrt_rtx "${DIT_DEPLOY_TENSORRT_RTX_INCLUDE}" DIT_DEPLOY_RTX)

add_library(dit_deploy ${DIT_DEPLOY_OBJECTS})
add_library(dit_deploy::dit_deploy ALIAS dit_deploy)
target_include_directories(dit_deploy PUBLIC $<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/include>
                                             $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
target_compile_features(dit_deploy PUBLIC cxx_std_17)
target_link_libraries(dit_deploy PRIVATE onnxruntime::onnxruntime Threads::Threads ${CMAKE_DL_LIBS})
if(NOT BUILD_SHARED_LIBS)
  target_compile_definitions(dit_deploy PUBLIC DIT_DEPLOY_STATIC)
elseif(NOT APPLE)
  set(_map "${CMAKE_CURRENT_SOURCE_DIR}/cmake/exported_symbols.map")
  target_link_options(dit_deploy PRIVATE "LINKER:--version-script=${_map}" LINKER:--no-undefined)
  set_target_properties(dit_deploy PROPERTIES LINK_DEPENDS "${_map}")
endif()
set_target_properties(dit_deploy PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR} LINKER_LANGUAGE CXX)
