#!/usr/bin/env bash
# All that there is to say of a GPU, in under six minutes and one line of JSON: see benchmarks/README.md.
#     benchmarks/gpu.sh [--tiny]      --tiny: the same on a CPU in seconds, to see that it runs; figures of no worth
set -euo pipefail
exec "${PYTHON:-python}" "$(dirname "$0")/gpu.py" "$@"
