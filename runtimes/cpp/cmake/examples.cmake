# The twins of examples/*.py.
foreach(_name class_to_image image_to_image text_to_video)
  add_executable(${_name} "${CMAKE_CURRENT_SOURCE_DIR}/../../examples/${_name}.cpp")
  target_include_directories(${_name} SYSTEM PRIVATE "${STB_INCLUDE_DIR}")
  target_link_libraries(${_name} PRIVATE dit_deploy dit_deploy_flags)
endforeach()
