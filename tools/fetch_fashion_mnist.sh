#!/usr/bin/env bash
# Puts the four files of Fashion-MNIST into FOLDER (.data/fashion-mnist by default), from Debian's
# package dataset-fashion-mnist. Needs apt and dpkg, but neither root nor an installation: the package
# is downloaded and unpacked into a temporary folder. Where the files are there already it does
# nothing. Exits 1, saying why, where the package cannot be had.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-.data/fashion-mnist}
package=dataset-fashion-mnist
installed=/usr/share/datasets/fashion-mnist

# Name, then POSIX checksum (cksum) and size of the unpacked content.
files="\
train-images-idx3-ubyte 630743101 47040016
train-labels-idx1-ubyte 1062290421 60008
t10k-images-idx3-ubyte 3464710709 7840016
t10k-labels-idx1-ubyte 2385809785 10008"

complete() {
  local name expected
  while read -r name expected; do
    [ "$(gzip -dc "$1/$name.gz" 2>/dev/null | cksum)" = "$expected" ] || return 1
  done <<<"$files"
}

fail() {
  echo "fetch_fashion_mnist: $1" >&2
  echo "Put train-images-idx3-ubyte.gz and the three others into $folder, or set SPARSEFL_DATA_DIR." >&2
  exit 1
}

for there in "$folder" "$installed"; do
  if complete "$there"; then
    echo "Fashion-MNIST is in $there."
    exit 0
  fi
done
command -v apt-get >/dev/null && command -v dpkg >/dev/null || fail "apt and dpkg are not here"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Root's apt downloads as another user, which must be able to write here.
chmod 755 "$work"
mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial" "$work/unpacked"

# The machine's own package lists serve where they know the package; otherwise private ones do.
if ! (cd "$work" && apt-get -qq download "$package") 2>"$work/log"; then
  private=(-o "Dir::State::lists=$work/state/lists" -o "Dir::Cache=$work/cache"
    -o Debug::NoLocking=1 -o APT::Sandbox::User=)
  apt-get -qq "${private[@]}" update 2>>"$work/log" &&
    (cd "$work" && apt-get -qq "${private[@]}" download "$package") 2>>"$work/log" ||
    fail "apt cannot download $package: $(tail -n 3 "$work/log" | tr '\n' ' ')"
fi
dpkg -x "$work/$package"_*.deb "$work/unpacked" || fail "dpkg cannot unpack $package"
complete "$work/unpacked$installed" || fail "$package holds other files than expected"
mkdir -p "$folder"
while read -r name _; do
  cp "$work/unpacked$installed/$name.gz" "$folder/$name.gz.partial"
  mv "$folder/$name.gz.partial" "$folder/$name.gz"
done <<<"$files"
echo "Fashion-MNIST is in $folder."
