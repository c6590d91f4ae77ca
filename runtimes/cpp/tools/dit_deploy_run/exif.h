// Which way up a picture is: the orientation tag of Exif, in a JPEG or PNG file.
#pragma once

#include <string_view>

#include "dit_deploy/pipeline.hpp"

namespace dit_deploy::run {

// 1 … 8 as Exif counts, 1 where the file says nothing or what is none.
int orientation(std::string_view file);

// The picture as `orientation` means it to be looked at.
Picture turned_upright(Picture picture, int orientation);

}  // namespace dit_deploy::run
