#!/usr/bin/env bash
# Train the published models side by side on one GPU: a teacher, what it teaches (vit-edge, vit-micro),
# and vit-small-ds with and without its two changes. Eight and a half minutes on an NVIDIA H200.
#
#   tools/train_models.sh cifar100 runs/ out/ [--epochs 2]
#
# The number of epochs goes to all trainings. out/ gets files of at most 15 MB:
# cat out/NAME.tar.* | tar x
set -euo pipefail
data=$1 runs=$2 out=$3
shift 3
export KERAS_BACKEND=${KERAS_BACKEND:-jax} MPLBACKEND=Agg PYTHONUNBUFFERED=1
# The trainings share the GPU's memory, and a second start finds what the first has compiled.
export XLA_PYTHON_CLIENT_PREALLOCATE=false
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$runs/compiled}
mkdir -p "$runs" "$out"

small=(python3 -m vitsd.cli.train --preset vit-small-ds --data "$data" --precision mixed_bfloat16)
teacher=(python3 tools/cnn_teacher.py "$runs/teacher.npz" --data "$data")
"${small[@]}" --output "$runs/vit-small-ds-cifar100" "$@" > "$runs/small.log" 2>&1 &
"${small[@]}" --no-spt --no-lsa --output "$runs/vanilla-cifar100" "$@" > "$runs/vanilla.log" 2>&1 &
"${teacher[@]}" "$@" 2>&1 | tee "$runs/teacher.log"
for name in vit-edge vit-micro; do
  "${teacher[@]}" --preset $name --output "$runs/$name-cifar100" "$@" > "$runs/$name.log" 2>&1 &
done
failed=0
for job in $(jobs -p); do wait "$job" || failed=1; done
for name in vit-edge vit-micro vit-small-ds; do
  if [ -f "$runs/$name-cifar100/model.keras" ]; then
    JAX_PLATFORMS=cpu python3 tools/pack_run.py "$runs/$name-cifar100" "$out"
  fi
done
vanilla=(run.json metrics.csv results.json curves.png)  # nobody needs its weights
tar cf "$out/vanilla-cifar100.tar.00" -C "$runs" "${vanilla[@]/#/vanilla-cifar100/}" || failed=1
exit $failed
