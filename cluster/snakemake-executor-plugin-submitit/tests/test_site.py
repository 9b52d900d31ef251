"""Site files: what is read from them, and the one line for each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from snakemake_executor_plugin_submitit.host import HostGpu, parse_query
from snakemake_executor_plugin_submitit.site import Site, SiteError, load_site

GOOD = """\
name: somewhere
cluster: slurm
account_env: SOME_ACCOUNT
qos: normal
setup: ["module load cuda"]
environment: {OMP_NUM_THREADS: 4}
parallel: 2
max_minutes: 480
gpus:
  H100:
    card: NVIDIA H100 80GB HBM3
    memory_gib: 80
    per_node: 8
    max_minutes: 240
    slurm: {partition: gpu-h100, gres: "gpu:H100:{n}"}
"""


def load(tmp_path: Path, text: str) -> Site:
    path = tmp_path / "site.yaml"
    path.write_text(text)
    return load_site(path)


def test_what_a_site_file_says(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(GOOD)
    site = load_site(path)
    assert site.environment == {"OMP_NUM_THREADS": "4"}
    assert site.max_cells_per_session == 200
    assert site.session_minutes("H100") == 240
    assert site.session_minutes("") == 480
    assert site.gpus["H100"].slurm == {"partition": "gpu-h100", "gres": "gpu:H100:{n}"}
    assert not site.gpus["H100"].is_cpu


def test_defaults_of_the_slurm_part(tmp_path: Path) -> None:
    site = load(tmp_path, GOOD)
    assert (site.status_seconds, site.lost_minutes) == (10, 10)
    assert (site.max_array_size, site.submit_limit(), site.preflight) == (None, None, None)


@pytest.mark.parametrize(
    ("limits", "most"), [("9, 4", 4), ("4, 9", 4), ("null, 9", 9), ("9, null", 9)]
)
def test_the_lower_of_two_submit_limits(tmp_path: Path, limits: str, most: int) -> None:
    of_site, of_qos = limits.split(", ")
    more = f"max_submit: {of_site}\nqos_limits: {{normal: {{max_submit: {of_qos}}}}}\n"
    assert load(tmp_path, GOOD + more).submit_limit() == most


@pytest.mark.parametrize("key", ["qos: a", "max_submit: 1", "lost_minutes: 1", "slurm: {mem: 1G}"])
def test_keys_of_slurm_need_slurm(tmp_path: Path, key: str) -> None:
    with pytest.raises(SiteError, match=rf"{key.split(':')[0]}: only with cluster: slurm$"):
        load(tmp_path, f"{LOCAL}{key}\n")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("parallel: 2", "paralel: 2", "paralel: 2: unknown key, allowed: name, cluster,"),
        ("per_node: 8", "per_nodes: 8", "gpus.H100.per_nodes: 8: unknown key, allowed: card"),
        ("per_node: 8", "per_node: 8\n    x: 1", "gpus.H100.x: 1: unknown key, allowed: card,"),
        ("parallel: 2", "parallel: 0", "parallel: 0: allowed: greater than or equal to 1"),
        ("slurm\n", "pbs\n", "cluster: 'pbs': allowed: 'slurm' or 'local'"),
        ("{n}", "{m}", "the only placeholder is {n}"),
        ("{n}", "{n", "expected '}'"),
        ("{n}", "{n:x}", "gpus.H100.slurm: gres: 'gpu:H100:{n:x}': the only placeholder is {n}"),
        ("{n}", "{n!r}", "the only placeholder is {n}"),
        ("{n}", "{n:{n}}", "the only placeholder is {n}"),
        ("qos: normal", "qos_limits: {a: {}}", "qos: None, allowed: a"),
        ("qos: normal", "qos: b\nqos_limits: {a: {}}", "qos: 'b', allowed: a"),
        (
            "qos: normal",
            "qos: a\nqos_limits: {a: {x: 1}}",
            "x: 1: unknown key, allowed: max_minutes",
        ),
        ("qos: normal", "max_submit: 0", "max_submit: 0: allowed: greater than"),
        ("qos: normal", "lost_minutes: 0", "lost_minutes: 0: allowed: greater than 0"),
        ("cluster: slurm", "cluster: local", "account_env: only with cluster: slurm"),
        ("card: NVIDIA H100 80GB HBM3", "card: auto", "gpus.H100.card: 'auto' is allowed with"),
        ("OMP_NUM_THREADS: 4", "OMP_NUM_THREADS: true", "environment.OMP_NUM_THREADS: True: "),
        ("OMP_NUM_THREADS: 4", "A B: 4", "environment.A B: 'A B': "),
        ("name: somewhere", "name: [", "not YAML: "),
        ("parallel: 2", "parallel: 2\nparallel: 3", "parallel: '3': given twice, lines "),
        ("per_node: 8", "per_node: 8\n    per_node: 4", "gpus.H100.per_node: '4': given twice"),
        ("per_node: 8", "", "gpus.H100.per_node: missing, allowed: it must be given"),
        ("parallel: 2", "status_seconds: .inf", "status_seconds: inf: allowed: a finite number"),
        ("memory_gib: 80", "memory_gib: .nan", "memory_gib: nan: allowed: a finite"),
        ("memory_gib: 80", "memory_gib: true", "gpus.H100.memory_gib: True: allowed: a number"),
        ("per_node: 8", "per_node: 8\n    nodes: true", "gpus.H100.nodes: True: allowed: a number"),
        ("parallel: 2", "parallel: yes", "parallel: True: allowed: a number"),
        ("name: somewhere", "name: a b", "name: 'a b': "),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in GOOD
    with pytest.raises(SiteError) as caught:
        load(tmp_path, GOOD.replace(old, new))
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'site.yaml'}: ")
    assert said in text
    assert "\n" not in text


def test_a_file_that_is_missing_or_holds_no_mapping(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="No such file"):
        load_site(tmp_path / "none.yaml")
    with pytest.raises(SiteError, match="expected keys and values, found list"):
        load(tmp_path, "- a")


NVIDIA_SMI = """\
#!/bin/sh
# SYNTHETIC: prints what an nvidia-smi with these GPUs would.
cat <<'END'
{}
END
"""
LOCAL = "name: box\ncluster: local\ngpus: {this: {card: auto, per_node: auto}}\n"


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An nvidia-smi that finds three GPUs."""
    lines = [f"{number}, GPU-{number}{number}, NVIDIA H200, 143771" for number in range(3)]
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(NVIDIA_SMI.format("\n".join(lines)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return program


def test_auto_asks_nvidia_smi(tmp_path: Path, nvidia_smi: Path) -> None:
    this = load(tmp_path, LOCAL).gpus["this"]
    assert (this.card, this.per_node, this.memory_gib) == ("NVIDIA H200", 3, 140.4)
    assert not this.is_cpu


@pytest.mark.parametrize(("visible", "count"), [("1", 1), ("GPU-22,0", 2)])
def test_auto_counts_visible_gpus_only(
    tmp_path: Path, nvidia_smi: Path, monkeypatch: pytest.MonkeyPatch, visible: str, count: int
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert load(tmp_path, LOCAL).gpus["this"].per_node == count


def test_auto_keeps_what_is_given(tmp_path: Path, nvidia_smi: Path) -> None:
    text = LOCAL.replace("per_node: auto", "per_node: 2, memory_gib: 100")
    this = load(tmp_path, text).gpus["this"]
    assert (this.card, this.per_node, this.memory_gib) == ("NVIDIA H200", 2, 100)


def test_auto_without_a_gpu_is_the_cpu(
    tmp_path: Path, nvidia_smi: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for case in ("", None):
        if case is None:
            nvidia_smi.unlink()
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", case)
        this = load(tmp_path, LOCAL).gpus["this"]
        assert (this.card, this.is_cpu, this.memory_gib) == ("CPU", True, None)
        assert this.per_node in (1, 2)


def test_nvidia_smi_output_that_is_no_gpu() -> None:
    assert parse_query("No devices were found\n") == []
    assert parse_query("0, GPU-a, NVIDIA A100, 81920\n\n") == [
        HostGpu("0", "GPU-a", "NVIDIA A100", 80.0)
    ]


def test_another_environment_is_the_sites_or_the_classes_own(tmp_path: Path) -> None:
    of_site = "python: /opt/v/bin/python\npackages: $HOME/more\n"
    of_class = "  A: {card: a, per_node: 1, container: {apptainer: a.sif, bind: [/data:/d:ro]}}\n"
    site = load(tmp_path, of_site + GOOD + of_class)
    assert site.programs_of("H100").python == "/opt/v/bin/python"
    assert site.programs_of("").packages == "$HOME/more"
    other = site.programs_of("A")
    assert (other.python, other.packages) == (None, None)
    assert other.container is not None
    assert (other.container.apptainer, other.container.bind) == ("a.sif", ["/data:/d:ro"])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('python: ""', "python: '': allowed: one line of printable characters"),
        ('python: "a\\nb"', "python: 'a\\nb': allowed: one line of printable characters"),
        ("container: {image: a}", "container.image: 'a': unknown key, allowed: apptainer, bind"),
        ("container: {apptainer: --no-mount}", "container.apptainer: '--no-mount': allowed: the p"),
        ('container: {apptainer: a, bind: ["a,b"]}', "container.bind.0: 'a,b': allowed: text like"),
        ("environment: {A: $(id)}", "environment.A: '$(id)': allowed after $: $NAME, ${NAME}, or"),
        ('environment: {A: "${B:-c}"}', "environment.A: '${B:-c}': allowed after $: $NAME, "),
    ],
)
def test_a_wrong_environment_is_one_line(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(SiteError) as caught:
        load(tmp_path, f"{LOCAL}{line}\n")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
