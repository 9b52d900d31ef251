"""The command line: what people see, what the rules call, and that neither waits for the rest."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import tpsweep
from tpsweep.cli.main import COMMANDS, INTERNAL, main

RULES = Path(__file__).parents[3] / "workflow" / "rules"


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(words)
    return (ended.value.code, *capsys.readouterr())


def test_help_lists_what_people_use_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "--help")
    listed = re.findall(r"^    (\w+)(?:\s|$)", out, re.MULTILINE)
    assert (code, listed) == (0, list(COMMANDS))
    assert not any(re.search(rf"\b{name}\b", out) for name in ("manifest", "fetch", "figures"))


@pytest.mark.parametrize("name", [*COMMANDS, *INTERNAL])
def test_every_command_says_what_it_does(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, name, "--help")
    assert code == 0 and out.startswith(f"usage: tpsweep {name}")
    assert (COMMANDS | INTERNAL)[name][1:] in " ".join(out.split())


def test_every_command_of_a_rule_is_there() -> None:
    files = [*RULES.iterdir(), RULES.parents[1] / "Snakefile"]
    called = set(re.findall(r"-m tpsweep (\w+)", "".join(p.read_text() for p in files)))
    assert called == {*INTERNAL, "comm"}


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "--version") == (0, f"tpsweep {tpsweep.__version__}\n", "")


@pytest.mark.parametrize("words", [(), ("frobnicate",), ("--", "frobnicate"), ("--frobnicate",)])
def test_bad_usage_is_code_2(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, *words)
    assert (code, out) == (2, "")
    assert "COMMAND" in err


def test_an_unknown_command_is_told_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    _, _, err = said(capsys, "frobnicate")
    assert err.splitlines()[-1] == (
        f"tpsweep: error: COMMAND: 'frobnicate', allowed: {', '.join(COMMANDS)}"
    )


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_help_imports_the_standard_library_only(word: str) -> None:
    code = (
        "import sys; before = set(sys.modules)\n"
        "from tpsweep.cli.main import main\n"
        "try: main([sys.argv[1]])\n"
        "except SystemExit: pass\n"
        "print(*sorted({n.partition('.')[0] for n in set(sys.modules) - before}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, word], capture_output=True, text=True)
    imported = set(done.stderr.split())
    assert "tpsweep" in imported
    assert imported - {"tpsweep"} <= sys.stdlib_module_names


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (["plan", "--explain", "m", "--tp", "4", "--tp=2"], "--tp"),
        (["init", "site", "here", "--gpu", "A100", "--per-node", "2", "--gpu", "H100"], "--gpu"),
        (["init", "sweep", "--model", "a/b", "--gpus", "A100", "--gpus", "H100"], "--gpus"),
        (["recommend", "results", "--model", "a", "--model", "b"], "--model"),
    ],
)
def test_a_flag_whose_first_value_would_be_lost_is_refused(
    words: list[str], flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = said(capsys, *words)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].endswith(f"argument {flag}: given twice, allowed: once")


def test_a_flag_that_may_be_given_again_keeps_every_value(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--model", "a/b", "--model", "c/d", "--gpus", "H100", "--vllm-version", "0.32.0"]
    assert main(["init", "sweep", *words, "--output", "-"]) == 0
    assert {"a/b", "c/d"} <= set(re.findall(r"\w/\w", capsys.readouterr().out))
