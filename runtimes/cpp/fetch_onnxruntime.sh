#!/usr/bin/env bash
# Fetch ONNX Runtime's C and C++ headers into a folder, from the machine's own Debian source.
#
#   fetch_onnxruntime.sh FOLDER [SUITE]      FOLDER/usr/include/onnxruntime/onnxruntime_c_api.h
#
# The wheel of ONNX Runtime has the library and no headers; bookworm has no package of them, newer suites do. The suite's
# lists and the package go to FOLDER, and the package is unpacked, not installed: the system stays as it is. The
# interface only grows, so these headers serve every ONNX Runtime that is not older than they are.
set -euo pipefail

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
  echo "usage: $0 FOLDER [SUITE]" >&2
  exit 2
fi
for program in apt-get dpkg; do
  command -v "$program" >/dev/null || { echo "$program is missing: this needs Debian" >&2; exit 2; }
done
folder=$(mkdir -p "$1" && cd "$1" && pwd)
suite=${2:-sid}

apt="$folder/apt"
mkdir -p "$apt/sources" "$apt/lists/partial" "$apt/cache/archives/partial"
# The first source of Debian that the machine knows, with the suite replaced: in either of the two forms of such files.
source=$({ cat /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources} 2>/dev/null || true; } |
  awk '/^URIs:.*\/debian\/?[[:space:]]*$/ { print $2; exit }
       /^deb / { for (i = 2; i <= NF; ++i) if ($i ~ /\/debian\/?$/) { print $i; exit } }')
if [ -z "$source" ]; then
  echo "no source of Debian in /etc/apt: this needs Debian" >&2
  exit 2
fi
keys=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb [signed-by=$keys] $source $suite main" >"$apt/sources/suite.list"

options=(-o "Dir::Etc::sourcelist=/dev/null" -o "Dir::Etc::sourceparts=$apt/sources" -o "Dir::State::lists=$apt/lists"
  -o "Dir::Cache=$apt/cache" -o "APT::Sandbox::User=root" -o "Acquire::Languages=none")
apt-get "${options[@]}" --quiet=2 update
(cd "$apt/cache" && apt-get "${options[@]}" --quiet=2 download libonnxruntime-dev)
dpkg -x "$apt"/cache/libonnxruntime-dev_*.deb "$folder"
rm -rf "$apt"
echo "$folder/usr/include/onnxruntime"
