"""What stands beside the code says the same as the code."""

import re
from pathlib import Path

import yaml

import tpsweep

ROOT = Path(__file__).parents[2]


def test_citation_and_changelog_name_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert cited["version"] == tpsweep.__version__
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d{2}-\d{2}$", changes, re.MULTILINE)
    assert released[0] == tpsweep.__version__


def test_the_public_ci_runs_what_every_change_must_pass() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))
    (job,) = workflow["jobs"].values()
    assert job["steps"][-1] == {"run": ".ci/run"}
    assert {"push", "pull_request"} <= workflow[True].keys()  # YAML 1.1 reads "on" as true
