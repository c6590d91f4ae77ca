# Install, build a project that knows the installed package only, and run its programs, one in C++ and one in C.
function(run)
  execute_process(COMMAND ${ARGN} COMMAND_ERROR_IS_FATAL ANY OUTPUT_VARIABLE _output)
  set(_output "${_output}" PARENT_SCOPE)
endfunction()

file(REMOVE_RECURSE "${FOLDER}")
run(${CMAKE_COMMAND} --install "${BUILD}" --prefix "${FOLDER}/prefix")
# Moved, because a prefix that is baked in would work where it was made.
file(RENAME "${FOLDER}/prefix" "${FOLDER}/moved")
file(GLOB_RECURSE _headers RELATIVE "${FOLDER}/moved/include" "${FOLDER}/moved/include/*")
foreach(_header ${_headers})
  if(NOT _header MATCHES "^(dit_deploy\\.h|dit_deploy/[a-z_]+\\.hpp)$")
    message(SEND_ERROR "installed, and not public: ${_header}")
  endif()
endforeach()

set(_prefix "${FOLDER}/moved" ${PREFIX_PATH})
run(${CMAKE_COMMAND} -Wno-dev -S "${SOURCE}" -B "${FOLDER}/build" -G "${GENERATOR}" "-DCMAKE_PREFIX_PATH=${_prefix}"
    "-DCMAKE_CXX_COMPILER=${CXX}" "-DCMAKE_C_COMPILER=${CC}" "-Ddit_deploy_VERSION_WANTED=${VERSION}")
run(${CMAKE_COMMAND} --build "${FOLDER}/build")
foreach(_program consumer_cpp consumer_c)
  run("${FOLDER}/build/${_program}")
  if(NOT _output MATCHES "dit_deploy ${VERSION}: .*no-such-bundle")
    message(SEND_ERROR "${_program} printed: ${_output}")
  endif()
endforeach()
