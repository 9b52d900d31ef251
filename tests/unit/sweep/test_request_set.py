"""Request sets: the same for every TP, known by their digest, refused in one line if bad."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.cells import engine, latency_cell
from tpsweep.core.cell import Cell
from tpsweep.sweep import request_set
from tpsweep.sweep.request_set import RequestSet


def cell(**changes: object) -> Cell:
    return latency_cell(workload="throughput", batch=None, num_prompts=4, **changes)


def no_sharegpt(_path: Path, _count: int) -> RequestSet:
    raise AssertionError("a ShareGPT file was read")


def random_set(**changes: object) -> RequestSet:
    return request_set.of_cell(cell(**changes), None, 1000, no_sharegpt)


def test_random_lengths_are_the_same_for_every_tp_and_run() -> None:
    one, other = random_set(engine=engine(tp=1)), random_set(engine=engine(run=2))
    assert one == other
    assert one.digest == other.digest
    assert one.prompt_lens == [64] * 4
    assert one.output_lens == [5] * 4
    assert one.tokens == 4 * 69
    assert len({tuple(prompt) for prompt in one.prompts}) == 4
    assert all(0 <= token < 1000 for prompt in one.prompts for token in prompt)


def test_other_lengths_are_another_set() -> None:
    assert random_set().digest != random_set(input_len=63).digest


def lengths_cell(path: Path, **changes: object) -> Cell:
    digest = request_set.file_digest(path)
    extra = {"dataset_digest": digest}
    return cell(dataset="lengths", input_len=None, output_len=None, extra=extra, **changes)


def test_a_lengths_file_is_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "lengths"
    path.write_text("# input, output\n\n3,1\n5 2\n7, 3\n1,1\n9,9\n")
    found = request_set.of_cell(lengths_cell(path), path, 50, no_sharegpt)
    assert list(zip(found.prompt_lens, found.output_lens, strict=True)) == [
        (3, 1),
        (5, 2),
        (7, 3),
        (1, 1),
    ]


def test_a_file_that_changed_since_planning_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lengths"
    path.write_text("3,1\n" * 4)
    planned = lengths_cell(path)
    path.write_text("3,2\n" * 4)
    with pytest.raises(ValueError, match="not the file that the cell was planned for"):
        request_set.of_cell(planned, path, 50, no_sharegpt)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("3,1\n3;1\n", "line 2 is '3;1'; allowed: a line per request"),
        ("3,1\n3,0\n", "line 2 is '3,0'"),
        ("3,1\n3\n", "line 2 is '3'"),
        ("3,1\n-3,1\n", "line 2 is '-3,1'"),
        ("3,1\n", "it has 1 requests, num_prompts asks for 2"),
        ("3,1\n9,8\n", "request 2 has 9 + 8 tokens; allowed: input + output up to"),
    ],
)
def test_bad_lengths_are_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "lengths"
    path.write_text(text)
    with pytest.raises(ValueError) as raised:
        request_set.check_file("lengths", path, 2, longest=16)
    assert str(raised.value).startswith(said)


def test_a_sharegpt_file_is_checked_at_both_ends(tmp_path: Path) -> None:
    path = tmp_path / "sharegpt.json"
    text = json.dumps([{"conversations": [{"value": "a"}, {"value": "b"}]}] * 2000)
    path.write_text(text + "\n")
    request_set.check_file("sharegpt", path, 2, 100)
    path.write_text(text[: len(text) // 2])
    with pytest.raises(ValueError, match="truncated"):
        request_set.check_file("sharegpt", path, 2, 100)
    path.write_text('{"a": []}')
    with pytest.raises(ValueError, match="not a list of conversations"):
        request_set.check_file("sharegpt", path, 2, 100)
