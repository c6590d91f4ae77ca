# Each fuzz/*.cpp a program of libFuzzer, with what reads bundles and makes solver tables, and no backend.
file(GLOB _reader CONFIGURE_DEPENDS src/text.cpp src/bundle/*.cpp src/sampling/*.cpp src/sampling/solvers/*.cpp
     src/tokenizer/*.cpp)
add_library(dit_deploy_reader OBJECT ${_reader})
target_include_directories(dit_deploy_reader PUBLIC include src)
target_compile_definitions(dit_deploy_reader PUBLIC DIT_DEPLOY_STATIC)
target_link_libraries(dit_deploy_reader PUBLIC dit_deploy_flags nlohmann_json::nlohmann_json Threads::Threads)

file(GLOB _targets CONFIGURE_DEPENDS fuzz/*.cpp)
foreach(_target ${_targets})
  get_filename_component(_name "${_target}" NAME_WE)
  add_executable(${_name} "${_target}")
  target_link_libraries(${_name} PRIVATE dit_deploy_reader)
  target_link_options(${_name} PRIVATE -fsanitize=fuzzer)
endforeach()
