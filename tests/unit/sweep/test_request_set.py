"""Request sets: the same for every TP, known by their digest, refused in one line if bad."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.cells import engine, latency_cell
from tpsweep.core.cell import Cell
from tpsweep.sweep import conversations, request_set
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


BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
TRACES = {
    "BurstGPT": BURST + "5,ChatGPT,47,18,65,API log\n45,GPT-4,108,0,108,x\n65,GPT-4,9,3,12,x\n",
    "Azure": AZURE + "2023-11-16 18:15:46.6805900,47,18\n2023-11-16 18:16:46.6805900,9,3\n",
    "Mooncake": '{"timestamp": 2000, "input_length": 47, "output_length": 18, "hash_ids": [0]}\n'
    '{"timestamp": 62000, "input_length": 9, "output_length": 3, "hash_ids": [0, 1]}\n',
}


def trace_cell(path: Path, speed: float) -> Cell:
    extra = {"dataset_digest": request_set.file_digest(path)}
    changes = {"dataset": "trace", "input_len": None, "output_len": None, "num_prompts": 2}
    return latency_cell(workload="serve", batch=None, speed=speed, extra=extra, **changes)


@pytest.mark.parametrize("of", TRACES)
def test_a_trace_has_lengths_and_times(of: str, tmp_path: Path) -> None:
    """60 s between the two requests that were answered, at 4 times the speed 15."""
    path = tmp_path / "trace"
    path.write_text(TRACES[of])
    request_set.check_file("trace", path, 2, longest=65)
    assert request_set.recorded_rate(path, 2) == pytest.approx(1 / 60)
    assert request_set.recorded_rate(path, 1) == float("inf")
    found = request_set.of_cell(trace_cell(path, 4.0), path, 50, no_sharegpt)
    assert (found.prompt_lens, found.output_lens) == ([47, 9], [18, 3])
    assert found.arrivals_s == pytest.approx([0.0, 15.0])
    slower = request_set.of_cell(trace_cell(path, 1.0), path, 50, no_sharegpt)
    assert slower.prompts == found.prompts and slower.digest != found.digest


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BURST + "5,x,47,18,65\n3,x,47,18,65\n", "its timestamps go back"),
        (BURST + "5,x,47,18,65\nsoon,x,47,18,65\n", "line 3 is 'soon,x,47,18,65'; allowed: CSV"),
        (BURST + "5,x,47,18,65\n", "it has 1 requests with prompt and answer, num_prompts asks"),
        (BURST + "5,x,47,18,65\n6,x,90,18,65\n", "request 2 has 90 + 18 tokens; allowed: input"),
        ("a,b\n1,2\n", "its columns are a, b; allowed: CSV"),
        ('{"timestamp": 1, "input_length": 2}\n', 'line 1 is \'{"timestamp": 1'),
        ('{"timestamp": 1, "input_length": 2.5, "output_length": 1}\n', "line 1 is"),
    ],
)
def test_bad_traces_are_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "trace"
    path.write_text(text)
    with pytest.raises(ValueError) as raised:
        request_set.check_file("trace", path, 2, longest=100)
    assert str(raised.value).startswith(said)


def test_a_share_of_the_prompts_begins_alike_and_nothing_else_is_sent_twice() -> None:
    changes = {"workload": "serve", "num_prompts": 8, "prefix_len": 48, "prefix_share": 0.5}
    one = request_set.of_cell(latency_cell(batch=None, **changes), None, 1000, no_sharegpt)
    heads = [tuple(prompt[:48]) for prompt in one.prompts]
    assert sorted(map(heads.count, heads)) == [1] * 4 + [4] * 4
    assert one.prompt_lens == [64] * 8 and one.most_hits == 4 * 48
    first, second = one.for_seed(0), one.for_seed(1)
    for place, (here, there) in enumerate(zip(first.prompts, second.prompts, strict=True)):
        assert len(here) == 64 and here[48:] != there[48:]
        assert (here[:48] == there[:48]) == (place in (one.prefix or first.prefix).shared)  # type: ignore[union-attr]
    plain = random_set()
    assert plain.for_seed(3) is plain and plain.most_hits == 0


CHATS = {
    "messages": [
        {"messages": [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "c"}]},
        {
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": [{"type": "text", "text": "d"}]},
                {"role": "assistant", "content": "e"},
            ]
        },
    ],
    "system": [
        {"conversations": [{"from": "human", "value": "a b"}, {"from": "gpt", "value": "c"}]},
        {
            "conversations": [
                {"from": "system", "value": "s"},
                {"from": "human", "value": "d"},
                {"from": "gpt", "value": "e"},
            ]
        },
    ],
}


@pytest.mark.parametrize("form", CHATS)
def test_chat_data_of_both_forms_is_brought_into_one(form: str, tmp_path: Path) -> None:
    path = tmp_path / "chats.json"
    path.write_text(json.dumps(CHATS[form], indent=1))
    request_set.check_file("sharegpt", path, 2, 100)
    found = conversations.converted(path)
    assert found is not None
    texts = [[turn["value"] for turn in one["conversations"]] for one in found]
    assert texts == [["a b", "c"], ["s\n\nd", "e"]]
    with pytest.raises(ValueError, match="it has 2 conversations of two turns or more"):
        request_set.check_file("sharegpt", path, 3, 100)


def test_a_plain_sharegpt_file_is_left_to_vllm(tmp_path: Path) -> None:
    path = tmp_path / "chats.json"
    path.write_text(json.dumps(CHATS["system"][:1]))
    assert conversations.converted(path) is None


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"text": "a"}, "conversation 1 has text; allowed: {"),
        (["a"], 'conversation 1 is ["a"]'),
        ({"messages": "a"}, 'conversation 1: messages: "a"'),
        ({"messages": [{"role": "user"}]}, 'conversation 1: a turn is {"role": "user"}'),
        ({"conversations": [{"from": "x", "value": 3}]}, "conversation 1: a turn's text is 3"),
    ],
)
def test_other_chat_data_is_refused_at_planning(entry: object, said: str, tmp_path: Path) -> None:
    path = tmp_path / "chats.json"
    path.write_text(json.dumps([entry]))
    with pytest.raises(ValueError) as raised:
        request_set.check_file("sharegpt", path, 1, 100)
    assert str(raised.value).startswith(said)
