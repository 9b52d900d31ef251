"""``make slurm-demo``: the small sweep on a private Slurm, real vLLM on the CPU."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.slurm.lab import Lab, LabError

FIELDS = "JobID%14,JobName%28,Partition,AllocTRES%50,State,Elapsed"


def main() -> int:
    """Bring Slurm up, run the sweep, show what accounting has, take Slurm down."""
    with tempfile.TemporaryDirectory(prefix="slurm-demo-") as folder:
        try:
            with Lab(Path(folder, "slurm")) as lab:
                command = [sys.executable, "-m", "snakemake", "--profile", "cluster/slurm-demo"]
                code = subprocess.run(command, env=lab.env(), check=False).returncode
                print(lab.call("sacct", "-X", "-o", FIELDS))
        except LabError as error:
            print(f"slurm-demo: {error}", file=sys.stderr)
            return 1
    return code


if __name__ == "__main__":
    sys.exit(main())
