# Is every symbol that the shared library shows one that it means to show?
execute_process(COMMAND ${NM} -D --defined-only --demangle ${LIBRARY} OUTPUT_VARIABLE _listing COMMAND_ERROR_IS_FATAL ANY)
string(REGEX REPLACE "[][;]" "." _listing "${_listing}")
string(REGEX REPLACE "\n$" "" _listing "${_listing}")
string(REPLACE "\n" ";" _lines "${_listing}")

# Everything below these is internal.
set(_internal "dit_deploy::(bundle|runtime|sampling)::")
set(_public "^(dit_deploy::|(typeinfo|typeinfo name|vtable) for dit_deploy::|dit_deploy_)")
set(_wrong 0)
foreach(_line ${_lines})
  string(REGEX REPLACE "^[0-9a-f]+ . " "" _name "${_line}")
  if(NOT _name MATCHES "${_public}" OR _name MATCHES "${_internal}")
    message(SEND_ERROR "shown, and not meant to be: ${_name}")
  endif()
endforeach()
foreach(_wanted "dit_deploy::Pipeline::open" "dit_deploy::Pipeline::generate" "dit_deploy::version" "dit_deploy::verify"
                "typeinfo for dit_deploy::InputError" "dit_deploy_")
  if(NOT _listing MATCHES "${_wanted}")
    message(SEND_ERROR "meant to be shown, and hidden: ${_wanted}")
  endif()
endforeach()
