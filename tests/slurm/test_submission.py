"""What is submitted, and what is not."""

from __future__ import annotations

import pytest

from tests.slurm.lab import Lab
from tests.slurm.workflow import SITE, SlurmWorkflow, matrix

SHORT = """
rule all:
    input: expand("out/{i}", i=range(12)), "out/alone", "out/asks"
rule short:
    output: "out/{i,[0-9]+}"
    resources: runtime=1
    shell: "test {wildcards.i} != 3 && echo $SLURM_JOB_ID $SESSION_ID > {output}"
rule alone:
    output: "out/alone"
    resources: runtime=1, session_alone=1
    shell: "echo $SLURM_JOB_ID $SESSION_ID > {output}"
rule asks:
    output: "out/asks"
    resources:
        runtime=1, slurm_partition="gpu-h200", constraint="h200", mem_mb_per_cpu=400,
        slurm_extra="--nice"
    shell: "echo $SLURM_JOB_PARTITION $SLURM_MEM_PER_CPU > {output}"
"""


@pytest.mark.slurm
def test_a_dry_run_prints_the_scripts_and_submits_nothing(lab: Lab, flow: SlurmWorkflow) -> None:
    cells = matrix()
    flow.write(cells)
    (flow.root / "out").mkdir()
    (flow.root / "out/h100x1-0.txt").write_text("of yesterday")
    code, said = flow.run("--submitit-dry-run", "--forceall")
    assert code == 0, said
    assert said.count("#!/bin/bash") == said.count("#SBATCH --gres=gpu:h") + 1 == 4
    assert "dry run: nothing was submitted" in said
    assert not list((flow.root / ".snakemake/submitit").glob("*/spec.json"))
    assert (flow.root / "out/h100x1-0.txt").read_text() == "of yesterday"
    assert not list((flow.root / ".snakemake/locks").glob("*"))


@pytest.mark.slurm
def test_short_jobs_share_a_job_and_fail_alone(lab: Lab, flow: SlurmWorkflow) -> None:
    flow.write({}, SITE)
    (flow.root / "Snakefile").write_text(SHORT)
    code, said = flow.run()
    assert code == 1
    assert said.count("Error in rule") == 1, said
    made = {path.name: path.read_text() for path in (flow.root / "out").iterdir()}
    assert set(made) == {*map(str, range(12)), "alone", "asks"} - {"3"}
    sessions = {made[str(i)].split()[1] for i in range(12) if i != 3}
    assert len(sessions) == 2  # of 10 minutes, and of 2
    assert made["alone"].split()[1] not in sessions
    assert made["asks"] == "gpu-h200 400\n"
    assert "resource slurm_extra: not used by this executor: the site's slurm (rule asks)" in said


@pytest.mark.slurm
@pytest.mark.parametrize("logdir", ["back\\slash", "100%j"])
def test_a_path_that_sbatch_would_change_is_refused_in_one_line(
    lab: Lab, flow: SlurmWorkflow, logdir: str
) -> None:
    flow.write(matrix())
    code, said = flow.run("--submitit-logdir", logdir)
    assert code == 1
    assert "sbatch takes no" in said
    assert "Traceback" not in said
