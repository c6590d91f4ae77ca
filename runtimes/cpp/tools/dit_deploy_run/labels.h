// Class labels as people type them: a number, or a name from the manifest; dit_deploy/cli/_labels.py.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace dit_deploy::run {

// The class index of each of `given`, a whole number or a name in `labels`. A name is compared without regard to the
// case of ASCII letters; where the manifest's has several, separated by commas ("tench, Tinca tinca"), any of them will
// do. Ranges are the pipeline's to check. Throws InputError for a name that is unknown (with those like it) or stands for
// several classes.
std::vector<std::int64_t> class_indices(const std::vector<std::string>& given,
                                        const std::map<std::int64_t, std::string>& labels);

// How alike two words are, 0 … 1: twice the letters in common blocks over all letters, as Python's difflib counts them.
double likeness(std::string_view first, std::string_view second);

}  // namespace dit_deploy::run
