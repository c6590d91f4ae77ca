#include "runtime/dynamic_library.h"

#ifdef _WIN32
#include <windows.h>
#else
#include <dlfcn.h>
#endif

#include "text.h"

namespace dit_deploy::runtime {

#ifdef _WIN32

DynamicLibrary::DynamicLibrary(const std::string& name) {
  handle_ = static_cast<void*>(LoadLibraryA(name.c_str()));
  if (handle_ == nullptr) problem_ = name + " does not load (error " + std::to_string(GetLastError()) + ")";
}

void* DynamicLibrary::address(const char* name) const {
  return reinterpret_cast<void*>(GetProcAddress(static_cast<HMODULE>(handle_), name));
}

#else

DynamicLibrary::DynamicLibrary(const std::string& name) : handle_(dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL)) {
  if (handle_ != nullptr) return;
  const char* said = dlerror();
  problem_ = one_line(said != nullptr ? said : name + " does not load", 300);
}

void* DynamicLibrary::address(const char* name) const { return dlsym(handle_, name); }

#endif

}  // namespace dit_deploy::runtime
