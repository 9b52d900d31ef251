"""`snakemake --lint` as a check: prints what it finds and exits 1, but for what we decided.

Decided otherwise: no conda environment or container per rule. The software of every rule is the
environment that runs Snakemake (.venv), and a cell's environment is part of what it measures.
"""

import subprocess
import sys

DECIDED = "    * Specify a conda environment or container for each rule.:"


def main() -> int:
    """Lint the workflow with the profile given as arguments."""
    command = [sys.executable, "-m", "snakemake", *sys.argv[1:], "--lint"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    lints = [line for line in lines if line.startswith("    * ")]
    decided = [line for line in lints if line == DECIDED]
    # Lints make exit code 1; so does a workflow that cannot be read, without a lint.
    if len(lints) > len(decided) or (done.returncode != 0 and not decided):
        print("\n".join(lines))
        return 1
    print(f"snakemake --lint: {len(lints)} findings, all of the kind decided otherwise")
    return 0


if __name__ == "__main__":
    sys.exit(main())
