#!/usr/bin/env bash
# The engine on this machine's GPU: first whether recorded steps are exact, then how fast they are; engine.json and engine.md in $out.
# tools/bench_gpu.sh --batch 1 16 --no-compile; all options are those of tools/bench_engine.py. device=cpu tries the same without a GPU.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[[ -d .venv/bin ]] && PATH=$PWD/.venv/bin:$PATH
device=${device-cuda}
out=${out-exp/bench_gpu}

if [[ $device == cuda* ]] && ! python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "$0: PyTorch sees no CUDA GPU here; nvidia-smi tells whether there is one, device=cpu tries this script on the CPU" >&2
  exit 1
fi
if ! python -c 'import pytest, transformers'; then
  echo "$0: pip install -e '.[transformers,dev]' brings what this compares with" >&2
  exit 1
fi
mkdir -p "$out"
exact=0
python -m pytest tests/nn/test_graphs.py || exact=$?
python tools/bench_engine.py --device "$device" --compile "$@" > "$out/engine.partial"
mv "$out/engine.partial" "$out/engine.json"
python tools/engine_table.py "$out/engine.json" | tee "$out/engine.md"
[[ $exact -eq 0 ]] || echo "$0: tests of recorded steps failed, see above; what they make is not to be trusted" >&2
exit "$exact"
