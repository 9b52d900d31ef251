"""What sbatch is told: the lines of every shipped site, written out, and what may not be sent."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from submitit.slurm.slurm import _make_sbatch_string

from snakemake_executor_plugin_submitit.flags import SlurmParameters, slurm_parameters
from snakemake_executor_plugin_submitit.packing import SessionKey
from snakemake_executor_plugin_submitit.site import Site, SiteError, load_site

SITES = Path(__file__).resolve().parents[2]
ACCOUNTS = {
    "PACE_ACCOUNT": "gts-me",
    "NERSC_ACCOUNT": "m1234_g",
    "DELTA_ACCOUNT": "abcd-delta-gpu",
    "ALLIANCE_ACCOUNT": "def-me",
}
SITE = """
name: test
cluster: slurm
max_minutes: 100
gpus:
  H100: {card: a card, per_node: 4, cpus_per_gpu: 3, slurm: {gres: "gpu:h100:{n}"}}
"""


def parameters(
    site: Site, gpu: str, gpus: int, minutes: int | None = 50, **more: int
) -> SlurmParameters:
    return slurm_parameters(SessionKey("s", "c", gpu, gpus), minutes, site, ACCOUNTS, **more)


def batch_script(asked: SlurmParameters) -> list[str]:
    text: str = _make_sbatch_string(
        command="run", folder="logs", job_name="name", map_count=6, **asked.submitit()
    )
    return text.splitlines()


def sbatch_lines(site: Site, gpu: str, gpus: int) -> set[str]:
    """The #SBATCH lines that tell sites apart."""
    same = ("array", "error", "output", "job-name", "nodes=", "ntasks", "open-mode", "signal")
    lines = [line[8:] for line in batch_script(parameters(site, gpu, gpus)) if "#SBATCH" in line]
    return {line for line in lines if not line.startswith(tuple(f"--{word}" for word in same))}


def made(text: str, folder: Path) -> Site:
    (folder / "site.yaml").write_text(text)
    return load_site(folder / "site.yaml")


PACE = ["--account=gts-me", "--qos=inferno", "--time=60", "--no-requeue"]
NERSC = ["--account=m1234_g", "--qos=regular", "--time=60", "--no-requeue"]
DELTA = ["--account=abcd-delta-gpu", "--time=60", "--no-requeue"]
ALLIANCE = ["--account=def-me", "--time=60", "--no-requeue", "--mem-per-gpu=80G"]


@pytest.mark.parametrize(
    ("site", "gpu", "gpus", "lines"),
    [
        # A type in the GRES.
        *(
            ("pace", gpu, n, [*PACE, f"--gres=gpu:{gpu}:{n}", f"--cpus-per-task={8 * n}"])
            for gpu in ("H100", "H200")
            for n in (1, 2, 4)
        ),
        ("pace", "L40S", 4, [*PACE, "--gres=gpu:L40S:4", "--cpus-per-task=16"]),
        ("pace", "A100", 2, [*PACE, "--gres=gpu:A100:2", "--cpus-per-task=16"]),
        # A constraint, and a number.
        *(
            (
                "perlmutter",
                f"A100-{size}",
                n,
                [
                    *NERSC,
                    f"--constraint='gpu&hbm{size}g'",
                    f"--gpus-per-node={n}",
                    f"--cpus-per-task={16 * n}",
                ],
            )
            for size in (40, 80)
            for n in (1, 2, 4)
        ),
        # A partition, and a number.
        *(
            ("delta", gpu, n, [*DELTA, f"--partition={where}", f"--gpus-per-node={n}", cpus])
            for gpu, where, each in (
                ("A100", "gpuA100x4", 16),
                ("A100x8", "gpuA100x8", 16),
                ("H200", "gpuH200x8", 12),
            )
            for n, cpus in ((n, f"--cpus-per-task={each * n}") for n in (1, 2, 4))
        ),
        # A type in the number.
        *(
            (
                "alliance",
                "H100",
                n,
                [*ALLIANCE, f"--gpus-per-node=h100:{n}", f"--cpus-per-task={12 * n}"],
            )
            for n in (1, 2, 4)
        ),
    ],
)
def test_lines_that_shipped_sites_send(site: str, gpu: str, gpus: int, lines: list[str]) -> None:
    sent = sbatch_lines(load_site(SITES / site / "site.yaml"), gpu, gpus)
    memory = {"pace": {"--mem-per-gpu=60G" if gpu == "L40S" else "--mem-per-gpu=200G"}}
    memory["delta"] = {"--mem-per-gpu=60G" if gpu == "A100" else "--mem-per-gpu=200G"}
    special = {"--constraint=A100-80GB"} if (site, gpu) == ("pace", "A100") else set()
    assert sent == {*lines, *memory.get(site, set()), *special}


def test_every_class_of_every_shipped_site_can_be_asked_for() -> None:
    asked = 0
    for path in SITES.glob("*/site.yaml"):
        site = load_site(path)
        for gpu in site.gpus if site.cluster == "slurm" else ():
            assert sbatch_lines(site, gpu, site.gpus[gpu].per_node)
            asked += 1
    assert asked >= 8


def test_a_batch_script_as_a_whole(tmp_path: Path) -> None:
    site = made(SITE + "setup: ['module load cuda']\nparallel: 2\n", tmp_path)
    script = batch_script(parameters(site, "H100", 2))
    assert "#SBATCH --array=0-5%6" in script  # the throttle is given at submission
    assert "#SBATCH --signal=TERM@30" in script
    assert not any("wckey" in line for line in script)
    setup = script[script.index("# setup") + 1 :]
    check = "[ $? -eq 0 ] || { echo 'setup failed: module load cuda' >&2; exit 78; }"
    last = "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"
    assert setup[:3] == ["module load cuda", check, last]


def test_another_qos_with_its_limits(tmp_path: Path) -> None:
    site = made(
        SITE + "qos: a\nqos_limits: {a: {}, b: {max_minutes: 60, max_submit: 7}}\n", tmp_path
    )
    assert "--qos=a" in sbatch_lines(site, "H100", 1)
    other = site.with_qos("b")
    assert "--qos=b" in sbatch_lines(other, "H100", 1)
    assert (site.submit_limit(), other.submit_limit()) == (None, 7)
    assert (site.session_minutes("H100"), other.session_minutes("H100")) == (100, 60)
    with pytest.raises(SiteError, match=r"^qos: 'c', allowed: a, b$"):
        site.with_qos("c")


@pytest.mark.parametrize(
    ("minutes", "asked"), [(1, 5), (3, 5), (4, 10), (58, 60), (59, 90), (97, 100), (None, 100)]
)
def test_time_limits_are_coarse_and_never_above_the_site(
    minutes: int | None, asked: int, tmp_path: Path
) -> None:
    assert parameters(made(SITE, tmp_path), "H100", 1, minutes).minutes == asked


def test_beyond_a_day_whole_days(tmp_path: Path) -> None:
    site = made(SITE.replace("max_minutes: 100", "max_minutes: 9000"), tmp_path)
    assert parameters(site, "H100", 1, 1500).minutes == 2880


def test_without_any_limit_a_runtime_is_asked_for(tmp_path: Path) -> None:
    site = made(SITE.replace("max_minutes: 100\n", ""), tmp_path)
    with pytest.raises(SiteError, match=r"^runtime: missing, allowed: minutes"):
        parameters(site, "H100", 1, None)


def test_a_missing_account_is_named(tmp_path: Path) -> None:
    site = made(SITE + "account_env: MY_ACCOUNT\n", tmp_path)
    with pytest.raises(SiteError, match=r"^account_env: MY_ACCOUNT is not set"):
        parameters(site, "H100", 1)


def test_jobs_without_gpus_ask_for_threads_and_memory(tmp_path: Path) -> None:
    asked = parameters(made(SITE, tmp_path), "", 0, threads=6, mem_mb=500)
    assert asked.cpus == 6
    assert ("mem", "500M") in asked.flags


def test_requeue_and_flags_that_a_class_switches_off(tmp_path: Path) -> None:
    site = made(
        SITE.replace("max", "slurm: {requeue: true, exclusive: true, mem: 1G}\nmax").replace(
            'gres: "gpu', 'exclusive: false, gres: "gpu'
        ),
        tmp_path,
    )
    flags = dict(parameters(site, "H100", 1).flags)
    assert flags == {"requeue": True, "mem": "1G", "gres": "gpu:h100:1"}


def test_requeue_false_is_no_requeue(tmp_path: Path) -> None:
    text = SITE.replace("max", "slurm: {requeue: true}\nmax").replace(
        "gres", "requeue: false, gres"
    )
    assert "--no-requeue" in sbatch_lines(made(text, tmp_path), "H100", 1)


@pytest.mark.parametrize("given", ["mem-per-gpu: 9G", "mem: false", "mem-bind: local", "mem: 8G"])
def test_a_jobs_own_memory_counts_more_than_the_sites(given: str, tmp_path: Path) -> None:
    site = made(SITE.replace("max", f"slurm: {{{given}}}\nmax"), tmp_path)
    flags = dict(parameters(site, "H100", 1, mem_mb=7).flags)
    assert (flags["mem"], "mem-per-gpu" in flags) == ("7M", False)


def test_numbers_are_text_and_not_switches(tmp_path: Path) -> None:
    site = made(SITE.replace("max", "slurm: {nice: 1, kill-on-invalid-dep: 0}\nmax"), tmp_path)
    assert {"--nice=1", "--kill-on-invalid-dep=0"} <= sbatch_lines(site, "H100", 1)


@pytest.mark.parametrize("account", ["a\nsbatch evil", "a\tb", "a\\b"])
def test_an_account_is_one_line(account: str, tmp_path: Path) -> None:
    site = made(SITE + "account_env: MY_ACCOUNT\n", tmp_path)
    with pytest.raises(SiteError, match=r"^account_env: MY_ACCOUNT is '.*', allowed: one line"):
        slurm_parameters(SessionKey("s", "c", "H100", 1), 50, site, {"MY_ACCOUNT": account})


@pytest.mark.parametrize("value", ["a b", "$(touch x)", "it's", 'say "x"', "a;b", "a&b"])
def test_values_reach_sbatch_as_one_word(value: str, tmp_path: Path) -> None:
    site = made(SITE, tmp_path).model_copy(update={"slurm": {"comment": value}})
    (line,) = (line for line in batch_script(parameters(site, "H100", 1)) if "comment" in line)
    assert shlex.split(line.removeprefix("#SBATCH ")) == [f"--comment={value}"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ('{comment: "a\\nb"}', "slurm: comment: 'a\\nb', allowed: one line"),
        ("{array: 1-3}", "slurm: array: set by the executor"),
        ("{time: 10}", "slurm: time: set by the executor"),
        ("{qos: x}", "slurm.qos: allowed: the site's own key qos"),
        ("{account: x}", "slurm: account: "),
        ("{cpus-per-task: 2}", "slurm: cpus-per-task: set by the executor from cpus_per_gpu"),
        ("{no-requeue: true}", "slurm: no-requeue: the default, allowed: requeue: true"),
        ("{parsable: true}", "slurm: parsable: changes how sbatch answers"),
        ("{comment: 'a\\b'}", "without backslash"),  # Slurm 22.05 drops it, quoted or not
        ("{comment: [1]}", "slurm.comment: [1]: allowed: text, a number, true"),
        ("{comment: }", "slurm.comment: None: allowed: text, a number, true"),
        ('{gres: "gpu:{n}"}', "slurm: gres: 'gpu:{n}', allowed: {n} in a class's slurm"),
        ("{Mem: 1G}", "slurm.Mem: 'Mem': "),
    ],
)
def test_flags_that_are_refused(flags: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(SiteError) as caught:
        made(SITE + f"slurm: {flags}\n", tmp_path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_new_site_is_one_folder(tmp_path: Path) -> None:
    site = made(SITE.replace("gpu:h100:{n}", "gpu:mi300:{n}"), tmp_path)
    assert "--gres=gpu:mi300:3" in sbatch_lines(site, "H100", 3)


def test_a_session_of_several_nodes_asks_for_them(tmp_path: Path) -> None:
    """Slurm counts ``gres`` on each node, and ``gpus`` over the whole job."""
    text = SITE.replace('gres: "gpu:h100:{n}"', 'gres: "gpu:h100:{n}", gpus: "{n}", mem: "{n}G"')
    site = made(text, tmp_path)
    asked = slurm_parameters(SessionKey("s", "c", "H100", 6, nodes=2), 50, site, ACCOUNTS)
    lines = batch_script(asked)
    assert {"#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=1"} <= set(lines)
    assert {"#SBATCH --gres=gpu:h100:3", "#SBATCH --gpus=6", "#SBATCH --mem=3G"} <= set(lines)
    assert "#SBATCH --cpus-per-task=9" in lines
    assert "--nodes=2" in str(asked)
    made_by_submitit = asked.submitit()["srun_args"]
    assert made_by_submitit == ["--kill-on-bad-exit=1"]
    alone = parameters(site, "H100", 2)
    assert alone.submitit()["srun_args"] == [] and "--nodes" not in str(alone)
