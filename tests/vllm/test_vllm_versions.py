"""Every vLLM from the oldest to the newest that we claim: are the words there that we rely on?"""

from __future__ import annotations

import subprocess

import pytest

from tests.vllm.wheels import wheel_files
from tpsweep.engine import vllm_api

VERSIONS = [
    "0.25.0",
    "0.25.1",
    "0.26.0",
    "0.27.0",
    "0.27.1",
    "0.28.0",
    "0.29.0",
    "0.30.0",
    "0.31.0",
    "0.32.0",
    "0.33.0",
]


PARSERS = [f"{name.replace('.', '/')}.py" for name in vllm_api.ARGUMENT_PARSERS]


def missing_words(files: dict[str, str]) -> list[str]:
    missing = [
        f"{path}: {word}"
        for path, words in vllm_api.RELIED_ON.items()
        for word in words
        if word not in files[path]
    ]
    if not any("def make_arg_parser(" in files[path] for path in PARSERS):
        missing.append(f"{' or '.join(PARSERS)}: def make_arg_parser(")
    return missing


@pytest.mark.registry
@pytest.mark.parametrize("version", VERSIONS)
def test_published_wheel_has_what_we_rely_on(version: str) -> None:
    try:
        files = wheel_files("vllm", version, [*vllm_api.RELIED_ON, *PARSERS])
    except (subprocess.SubprocessError, OSError) as error:
        pytest.skip(f"no package registry can be reached: {type(error).__name__}")
    assert missing_words(files) == []


def test_a_lost_word_is_noticed() -> None:
    files = {path: "\n".join(words) for path, words in vllm_api.RELIED_ON.items()}
    files |= dict.fromkeys(PARSERS, "") | {PARSERS[-1]: "def make_arg_parser(parser)"}
    assert missing_words(files) == []
    assert len(missing_words(files | {PARSERS[-1]: ""})) == 1
    files["vllm/v1/metrics/stats.py"] = "scheduled_ts first_token_ts"
    assert missing_words(files) == ["vllm/v1/metrics/stats.py: last_token_ts"]


def test_the_versions_cover_the_claimed_range() -> None:
    minors = {tuple(int(part) for part in version.split(".")[:2]) for version in VERSIONS}
    oldest, newest = vllm_api.OLDEST, vllm_api.NEWEST
    assert minors == {(0, minor) for minor in range(oldest[1], newest[1] + 1)}
