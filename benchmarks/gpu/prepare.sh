#!/usr/bin/env bash
# Makes, on a machine with network, what a CUDA machine without network lacks: wheels for its Python 3.12, and data sets.
#   bash benchmarks/gpu/prepare.sh [wheels] [cifar10-jpeg] [imagenette-128]     (without arguments: all three)
# Everything goes to benchmarks/gpu/prepared, which git ignores. wandb (20 MB) is left out: its logger is off in all parts.
set -euo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-.venv/bin/python}
SHARED=${SHARED:-../shared/data} # holds cifar10-jpeg and imagenette-224
TO=benchmarks/gpu/prepared
MOST=60 # MB of the wheels and one data set together
PURE_SDIST=antlr4-python3-runtime==4.9.3 # has no wheel on the index; built here, it is for every Python
PACKAGES=(hydra-core omegaconf webdataset braceexpand simplejpeg)
mkdir -p "$TO/wheels" "$TO/data"

wheels() {
  rm -f "$TO"/wheels/*.whl
  "$PYTHON" -m pip wheel --quiet --no-deps --wheel-dir "$TO/wheels" "$PURE_SDIST"
  "$PYTHON" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
    --constraint constraints.txt --dest "$TO/wheels" "${PACKAGES[@]}"
}

for what in "${@:-wheels cifar10-jpeg imagenette-128}"; do
  for one in $what; do
    case $one in
      wheels) wheels ;;
      cifar10-jpeg) tar cz -C "$SHARED" -f "$TO/data/cifar10-jpeg.tar.gz" cifar10-jpeg ;;
      imagenette-128) "$PYTHON" benchmarks/gpu/repack.py "$SHARED/imagenette-224" "$TO/data/imagenette-128.tar.gz" ;;
      *) echo "prepare.sh: $one is none of wheels, cifar10-jpeg, imagenette-128" >&2; exit 2 ;;
    esac
  done
done

bytes() { cat "$@" 2>/dev/null | wc -c; }
packages=$(bytes "$TO"/wheels/*.whl)
for file in "$TO"/data/*.tar.gz; do
  test -e "$file" || continue
  both=$((packages + $(bytes "$file")))
  echo "wheels and $(basename "$file" .tar.gz): $((both / 1000000)) MB"
  test "$both" -lt $((MOST * 1000000)) || { echo "prepare.sh: that is more than $MOST MB" >&2; exit 1; }
done
