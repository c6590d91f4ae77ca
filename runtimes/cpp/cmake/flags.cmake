# What this project's own sources are compiled with. -ffp-contract=off: a multiplication and an addition are rounded one by
# one, as numpy rounds them, so that the same picture comes out on every machine.
add_library(dit_deploy_flags INTERFACE)
target_compile_features(dit_deploy_flags INTERFACE cxx_std_17)
target_compile_options(dit_deploy_flags INTERFACE -ffp-contract=off -Wall -Wextra -Wpedantic -Wshadow -Wconversion)
