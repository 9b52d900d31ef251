"""`snakemake --lint` as a check: prints what it finds and exits 1, but for what this project decides.

Decided otherwise: no conda environment or container per rule. The software of every rule is the
environment that runs Snakemake (.venv), and a cell's environment is part of what it measures.
"""

import json
import subprocess
import sys

DECIDED = {"Specify a conda environment or container for each rule."}


def main() -> int:
    """Lint the workflow with the profile given as arguments."""
    command = [sys.executable, "-m", "snakemake", *sys.argv[1:], "--lint", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    start = done.stdout.find("{")
    if start < 0:
        sys.stderr.write(done.stdout + done.stderr)
        return done.returncode
    found = json.loads(done.stdout[start:])
    lints = [
        f"{kind} {item.get('for', '')}: {lint['title']}"
        for kind, items in found.items()
        for item in items
        for lint in item["lints"]
        if lint["title"] not in DECIDED
    ]
    print("\n".join(lints) or "snakemake --lint: nothing found")
    return 1 if lints else 0


if __name__ == "__main__":
    sys.exit(main())
