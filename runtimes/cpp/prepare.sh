#!/usr/bin/env bash
# Fetch what building the C++ runtime needs and this machine lacks. Nothing is installed, and root is not needed.
#
#   prepare.sh [--folder FOLDER] [--onnxruntime PATH] [--fuzzer]
#
#   --folder FOLDER       where it goes; runtimes/cpp/.deps by default, where CMake looks by itself
#   --onnxruntime PATH    use this library of ONNX Runtime: a virtual environment that has its wheel, the unpacked official
#                         archive, or the folder of libonnxruntime.so; by default the wheel comes from Python's package index
#   --fuzzer              clang with libFuzzer too
#
# FOLDER/headers/usr      ONNX Runtime's headers (from Debian's suite sid: bookworm has none, and the interface only grows, so
#                         that they serve every ONNX Runtime that is not older), nlohmann-json, doctest, stb
# FOLDER/onnxruntime/lib  libonnxruntime.so
# FOLDER/clang/usr        clang; its libraries lie in it, too: run it as FOLDER/clang/clang++
#
# A part is unpacked beside and renamed when it is whole, so a run that was killed leaves nothing that passes for one; what is
# there already is kept, and a second run does nothing.
set -euo pipefail

say() { echo "prepare.sh: $*" >&2; }
fail() { say "$*"; exit 2; }

folder=$(cd "$(dirname "$0")" && pwd)/.deps
library="" fuzzer=""
while [ $# -gt 0 ]; do
  case $1 in
    --folder) [ $# -gt 1 ] || fail "--folder needs a folder"; folder=$2; shift 2 ;;
    --onnxruntime) [ $# -gt 1 ] || fail "--onnxruntime needs a path"; library=$2; shift 2 ;;
    --fuzzer) fuzzer=yes; shift ;;
    -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"; exit 0 ;;
    *) fail "$1 came, expected --folder FOLDER, --onnxruntime PATH or --fuzzer" ;;
  esac
done
mkdir -p "$folder" 2>/dev/null && [ -w "$folder" ] || fail "$folder cannot be written; give another one with --folder"
folder=$(cd "$folder" && pwd)

# One run at a time; what an earlier one left unfinished goes.
exec 9>"$folder/.lock"
flock 9
rm -rf "$folder"/.part-*
trap 'rm -rf "$folder"/.part-*' EXIT

# part NAME: an empty folder to fill; done_with NAME puts it in place.
part() { rm -rf "$folder/.part-$1"; mkdir -p "$folder/.part-$1"; echo "$folder/.part-$1"; }
done_with() { rm -rf "${folder:?}/$1" "$folder/.part-$1/.apt"; mv -T "$folder/.part-$1" "$folder/$1"; }

# The first source of Debian that the machine knows, in either of the two forms of such files.
debian_source() {
  { cat /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources} 2>/dev/null || true; } |
    awk '/^URIs:.*\/debian\/?[[:space:]]*$/ { print $2; exit }
         /^deb / { for (i = 2; i <= NF; ++i) if ($i ~ /\/debian\/?$/) { print $i; exit } }'
}

# fetch_debian PLACE SUITE deps|alone BY_HAND PACKAGE …: unpack packages of Debian into PLACE, with what they depend on or alone.
# Lists and packages go to a folder of their own, so that the system's stay as they are.
fetch_debian() {
  local place=$1 suite=$2 how=$3 by_hand=$4 apt="$1/.apt" source program
  shift 4
  for program in apt-get dpkg; do
    command -v "$program" >/dev/null || fail "$* missing, and there is no $program to fetch it with; $by_hand"
  done
  source=$(debian_source)
  [ -n "$source" ] || fail "$* missing, and /etc/apt names no source of Debian; $by_hand"
  mkdir -p "$apt/sources" "$apt/lists/partial" "$apt/cache/archives/partial"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $source $suite main" >"$apt/sources/suite.list"
  local options=(-o "Dir::Etc::sourcelist=/dev/null" -o "Dir::Etc::sourceparts=$apt/sources"
    -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o "APT::Sandbox::User=$(id -un)"
    -o "Acquire::Languages=none" -o "Acquire::Retries=3" -o "Debug::NoLocking=1" --quiet=2)
  apt-get "${options[@]}" update >&2 || fail "$source cannot be read; $by_hand"
  if [ "$how" = deps ]; then
    apt-get "${options[@]}" --yes --no-install-recommends --download-only install "$@" >&2 || fail "$* cannot be fetched; $by_hand"
    mv "$apt"/cache/archives/*.deb "$apt"
  else
    (cd "$apt" && apt-get "${options[@]}" download "$@" >&2) || fail "$* cannot be fetched; $by_hand"
  fi
  local package
  for package in "$apt"/*.deb; do dpkg -x "$package" "$place"; done
  rm -rf "$apt"
}

# The headers' number of the interface: 23 for 1.23.
api_version() { sed -n 's/^#define ORT_API_VERSION \([0-9]*\).*/\1/p' "$1/onnxruntime_c_api.h" 2>/dev/null || true; }

headers="$folder/headers"
if [ ! -d "$headers" ]; then
  place=$(part headers)
  api=$(api_version /usr/include/onnxruntime)
  if [ "${api:-0}" -lt 22 ]; then  # 1.22: the first with plugin providers
    say "fetching ONNX Runtime's headers"
    fetch_debian "$place" sid alone "give CMake the official archive, -DONNXRUNTIME_ROOT=FOLDER" libonnxruntime-dev
    # Its CMake configuration names a library that is not there.
    rm -rf "$place"/usr/lib "$place"/usr/share
  fi
  lacking=()
  [ -e /usr/include/nlohmann/json.hpp ] || lacking+=(nlohmann-json3-dev)
  [ -e /usr/include/doctest/doctest.h ] || lacking+=(doctest-dev)
  [ -e /usr/include/stb/stb_image.h ] || lacking+=(libstb-dev)
  if [ ${#lacking[@]} -gt 0 ]; then
    say "fetching ${lacking[*]}"
    suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-stable}")
    fetch_debian "$place" "$suite" alone "install nlohmann-json 3.11, doctest 2.4 and stb by hand" "${lacking[@]}"
    rm -rf "$place"/usr/share/doc
  fi
  mkdir -p "$place/usr"
  done_with headers
fi

# find_library PATH: the file of the library, below a folder of any of the kinds that --onnxruntime takes.
find_library() { find -L "$1" -maxdepth 7 -name 'libonnxruntime.so.*.*' -type f 2>/dev/null | sort | head -n 1; }

# place_library FILE ln|cp: a part of the library, under the names that linker and loader look for, and of the providers'
# libraries beside it, which it looks for where it lies itself.
place_library() {
  local place file
  place=$(part onnxruntime)
  mkdir "$place/lib"
  for file in "$1" "$(dirname "$1")"/libonnxruntime_providers_*.so; do
    [ -e "$file" ] || continue
    if [ "$2" = ln ]; then ln -s "$file" "$place/lib/"; else cp "$file" "$place/lib/"; fi
  done
  ln -s "$(basename "$1")" "$place/lib/libonnxruntime.so.1"
  ln -s libonnxruntime.so.1 "$place/lib/libonnxruntime.so"
  done_with onnxruntime
}

if [ -n "$library" ]; then
  found=$(find_library "$library")
  [ -n "$found" ] || fail "$library holds no libonnxruntime.so.1.*; give the environment or folder that ONNX Runtime is in"
  found=$(realpath "$found")
  [ "$(realpath -q "$folder/onnxruntime/lib/libonnxruntime.so")" = "$found" ] || place_library "$found" ln
elif [ ! -e "$folder/onnxruntime/lib/libonnxruntime.so" ]; then
  say "fetching ONNX Runtime's wheel"
  by_hand="install Python 3 with venv, or give --onnxruntime PATH"
  command -v python3 >/dev/null || fail "python3 is missing, which fetches ONNX Runtime's wheel; $by_hand"
  place=$(part wheel)
  python=python3
  if ! python3 -m pip --version >/dev/null 2>&1; then
    python3 -m venv "$place/venv" >&2 || fail "python3 has neither pip nor venv; $by_hand"
    python="$place/venv/bin/python"
  fi
  "$python" -m pip --quiet --disable-pip-version-check download --no-deps --only-binary :all: --dest "$place" 'onnxruntime>=1.23' >&2 ||
    fail "ONNX Runtime's wheel cannot be fetched from the package index; $by_hand"
  python3 -m zipfile -e "$place"/onnxruntime-*.whl "$place/unpacked"
  place_library "$(find_library "$place/unpacked")" cp
  rm -rf "$place"
fi

# Newer headers than the library would ask it for functions that it has not.
for include in "$headers/usr/include/onnxruntime" /usr/include/onnxruntime; do
  api=$(api_version "$include")
  [ -n "$api" ] && break
done
version=$(basename "$(realpath "$folder/onnxruntime/lib/libonnxruntime.so")")
version=${version#libonnxruntime.so.}
minor=$(echo "$version" | cut -d. -f2)
[ "${minor:-0}" -ge "${api:-0}" ] || fail "ONNX Runtime $version is older than its headers, 1.$api; give a newer one with --onnxruntime"

if [ -n "$fuzzer" ] && [ ! -d "$folder/clang" ]; then
  say "fetching clang"
  place=$(part clang)
  suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-stable}")
  fetch_debian "$place" "$suite" deps "install clang 14 with its libFuzzer by hand" clang-14 libclang-rt-14-dev
  # The programs find their libraries by where they lie, wherever this folder is.
  for program in clang clang++; do
    cat >"$place/$program" <<'WRAPPER'
#!/bin/sh
here=$(cd "$(dirname "$0")" && pwd)
for folder in "$here"/usr/lib/llvm-14/lib "$here"/usr/lib/*-linux-gnu; do
  LD_LIBRARY_PATH=$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
done
export LD_LIBRARY_PATH
exec "$here/usr/lib/llvm-14/bin/$(basename "$0")" "$@"
WRAPPER
    chmod +x "$place/$program"
  done
  done_with clang
fi
echo "$folder"
