"""The batch script of a recommendation, on a real Slurm: a server over two nodes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import yaml

from snakemake_executor_plugin_submitit.site import load_site
from tests.slurm.lab import Lab
from tests.unit.cells import engine
from tpsweep.plan import serve_script

pytestmark = pytest.mark.slurm
STAND_IN = """\
#!/bin/bash
# A stand-in for vLLM: it only writes what it was given.
printf '%s\\n' "$VLLM_HOST_IP" "$@" > "$OUT/$SLURMD_NODENAME"
"""
LIMIT_S = 60


def test_each_node_starts_its_part_and_they_know_the_first(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "vllm").write_text(STAND_IN)
    (tmp_path / "vllm").chmod(0o755)
    flags = {"partition": "gpu-a100", "gres": "gpu:a100:{n}", "mem": "100M"}
    site = {
        "name": "lab",
        "cluster": "slurm",
        "qos": "two",
        "max_minutes": 10,
        "setup": [f'export PATH="{tmp_path}:$PATH" OUT="{tmp_path}"'],
        "gpus": {"a100": {"card": "CPU", "per_node": 1, "nodes": 2, "slurm": flags}},
    }
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(site))
    wide = engine(gpu="a100", tp=2, nodes=2)
    command = serve_script.vllm_serve(wide, "it's a model", "m")
    script = tmp_path / "serve.sh"
    lines = serve_script.batch_script(
        wide, 1, command, load_site(tmp_path / "site.yaml"), os.environ
    )
    script.write_text("\n".join(lines) + "\n")
    job = lab.call("sbatch", "--parsable", f"--output={tmp_path}/log", str(script)).strip()
    deadline = time.monotonic() + LIMIT_S
    while job in lab.squeue() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert job not in lab.squeue(), lab.call("squeue", "-o", "%i %T %r")
    log = (tmp_path / "log").read_text()
    assert sorted(p.name for p in tmp_path.glob("a100-*")) == ["a100-1", "a100-2"], log
    first, second = ((tmp_path / f"a100-{n}").read_text().splitlines() for n in (1, 2))
    meeting = {"--nnodes=2", "--master-addr=127.0.0.1", f"--master-port={20000 + int(job) % 10000}"}
    for words in (first, second):
        assert words[0] == "127.0.0.1"
        assert words[1:3] == ["serve", "it's a model"]
        assert meeting < set(words)
    assert "--node-rank=0" in first and "--headless" not in first
    assert "--node-rank=1" in second and second[-1] == "--headless"
