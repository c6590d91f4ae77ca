# -DDIT_DEPLOY_SANITIZE=address (with undefined behaviour), thread, or what else the compiler's -fsanitize takes; and the
# coverage that libFuzzer needs, with -DDIT_DEPLOY_FUZZ=ON.
set(DIT_DEPLOY_SANITIZE "" CACHE STRING "address, thread, …: what -fsanitize gets; empty: none")
option(DIT_DEPLOY_FUZZ "Build the fuzz targets, with clang" OFF)

if(DIT_DEPLOY_SANITIZE STREQUAL "address")
  set(_sanitize "address,undefined")
else()
  set(_sanitize "${DIT_DEPLOY_SANITIZE}")
endif()
if(DIT_DEPLOY_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    message(FATAL_ERROR "DIT_DEPLOY_FUZZ needs clang, found ${CMAKE_CXX_COMPILER_ID}: -DCMAKE_CXX_COMPILER=clang++ "
                        "(runtimes/cpp/prepare.sh --fuzzer fetches one)")
  endif()
  string(JOIN "," _sanitize ${_sanitize} "fuzzer-no-link")
endif()
if(_sanitize)
  add_compile_options("-fsanitize=${_sanitize}" -fno-sanitize-recover=all -fno-omit-frame-pointer -g1)
  add_link_options("-fsanitize=${_sanitize}")
endif()
