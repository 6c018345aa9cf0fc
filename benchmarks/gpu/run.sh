#!/usr/bin/env bash
# Runs one part on a machine with a GPU, from a checkout and benchmarks/gpu/prepared:
#   bash benchmarks/gpu/run.sh PART [--dry] [--minutes 7] [--again]
#   PART: check speed mae_cifar simmim_cifar latent_cifar mae_imagenette
# PART.json and PART.log go to $OUT (default: benchmarks/gpu/out). Runs and data stay in benchmarks/gpu/work: the same
# command goes on where the last one stopped. --dry: a few steps on the CPU.
set -euo pipefail
cd "$(dirname "$0")/../.."
HERE=benchmarks/gpu
PART=${1:?usage: run.sh PART [--dry] [--minutes N] [--again]}
shift
OUT=${OUT:-$HERE/out}
WORK=${WORK:-$HERE/work}
PYTHON=${PYTHON:-python3}
mkdir -p "$OUT" "$WORK"
WORK=$(cd "$WORK" && pwd)
export PYTHONPATH="$WORK/site:$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
export XDG_CACHE_HOME="$WORK/cache" HF_HUB_OFFLINE=1 CUBLAS_WORKSPACE_CONFIG=:4096:8 WANDB_MODE=disabled

"$PYTHON" -c "import hydra, omegaconf, webdataset, simplejpeg" 2>/dev/null || {
  ls "$HERE"/prepared/wheels/*.whl >/dev/null 2>&1 || { echo "run.sh: no wheels; run prepare.sh first, where there is a network" >&2; exit 2; }
  "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$WORK/site" "$HERE"/prepared/wheels/*.whl
}
mkdir -p "$WORK/data"
for archive in "$HERE"/prepared/data/*.tar.gz; do
  name=$(basename "$archive" .tar.gz)
  test -e "$archive" && test ! -e "$WORK/data/$name" || continue
  mkdir -p "$WORK/unpacking" && tar xzf "$archive" -C "$WORK/unpacking" && mv "$WORK/unpacking/$name" "$WORK/data/$name"
done

case $PART in
  check | speed) set -- "$HERE/$PART.py" "$@" ;;
  *) set -- "$HERE/train.py" "$PART" "$@" ;;
esac
"$PYTHON" "$@" --out "$OUT" --work "$WORK" 2>&1 | tee -a "$OUT/$PART.log"
