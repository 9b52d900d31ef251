"""The reference data set: how it is read, and what the checks find in it and in made-up ones."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tpsweep.cli.main import main
from tpsweep.lab.reference import SHIPPED, page
from tpsweep.lab.reference.checks import CHECKS, Finding, examine
from tpsweep.lab.reference.figure import METRICS, Figure
from tpsweep.lab.reference.reading import COLUMNS, Reference, ReferenceDataError, read_reference
from tpsweep.perfmodel.gpu_specs import cards
from tpsweep.perfmodel.model_folder import read_config
from tpsweep.perfmodel.model_shape import Shape

ROOT = Path(__file__).parents[3]
MODEL, PREFILL, DECODE = "llama-3.1-8b", 40.0, {1: 6.0, 2: 4.0}
"""Made up: ms of a prefill of one sequence, ms of a decode step by TP at batch 1."""
TOKENS = 64


def shipped() -> Reference:
    return read_reference(SHIPPED)


def by_check(findings: list[Finding]) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {name: [] for name in CHECKS}
    for finding in findings:
        found[finding.check].append(finding)
    return found


def values_of(finding: Finding) -> set[float]:
    return {figure.value for figure in finding.figures}


# The shipped data set.


def test_two_values() -> None:
    """The table and the written answer give two pairs of offline throughput."""
    found = by_check(examine(shipped()))["two-values"]
    assert [values_of(finding) for finding in found] == [{11270, 9926.3}, {11285, 9946.45}]


def test_decode_is_the_same_and_is_not() -> None:
    """7.06 = 7.08 ms in one table, an ITL of 7.22 and 5.13 ms in another."""
    (finding,) = by_check(examine(shipped()))["token-time-scaling"]
    assert values_of(finding) == {7.06, 7.08, 7.22, 5.13}


def test_offline_gains_nothing_while_itl_drops() -> None:
    h100, a100 = by_check(examine(shipped()))["offline-scaling"]
    assert {88.45, 88.57, 7.22, 5.13} <= values_of(h100)
    assert "29 %" in h100.says
    assert values_of(a100) == {36.97, 36.81, 16.35, 9.93}
    assert "39 %" in a100.says


def test_per_token_latency_has_the_prefill_in_it() -> None:
    found = by_check(examine(shipped()))["prefill-in-token-time"]
    assert {figure.table for finding in found for figure in finding.figures} == {
        *("70b_h200", "70b_tp2_tp4")
    }


def test_ttft_is_not_explained() -> None:
    found = by_check(examine(shipped()))
    assert [min(values_of(f)) for f in found["unexplained-ttft"]] == [7.22, 5.13, 16.35, 9.93]
    (derived,) = found["derived-ttft"]
    assert "127.8 to 128 times" in derived.says
    assert len(derived.figures) == 8


def test_what_is_sound_is_not_blamed() -> None:
    found = by_check(examine(shipped()))
    assert found["below-floor"] == []
    assert found["rate-identity"] == []


def test_shapes_are_those_of_the_models() -> None:
    for name, shape in shipped().shapes.items():
        config = read_config(ROOT / "workflow" / "models" / f"{name}.json")
        assert shape == Shape.from_config(config)


def test_page_is_made_from_the_data() -> None:
    text = (ROOT / "docs" / "reference.md").read_text("utf-8")
    assert text == page.markdown(shipped()), (
        "python -m tpsweep.lab.reference.page > docs/reference.md"
    )


# Made-up figures that hold together, and single ones that do not.


def figure(metric: str, value: float, tp: int = 1, **given: object) -> Figure:
    served = metric in ("ttft_p50", "itl_p50")
    plain = Figure(
        table="made_up",
        model=MODEL,
        gpu="H100",
        node=None,
        gpus=tp,
        tp=tp,
        batch=None if served else 1,
        workload="serve" if served else "latency",
        output_len=None if served else TOKENS,
        request_rate=4.0 if served else None,
        metric=metric,
        value=value,
        half_unit=0.005,
        unit=METRICS[metric],
        note=None,
    )
    return replace(plain, **given)  # type: ignore[arg-type]


def consistent(token_time: Callable[[float, float], float]) -> list[Figure]:
    """A small sweep made by one formula; ``token_time(step, whole)`` is its time per token."""
    found = []
    for tp, at_batch_1 in DECODE.items():
        for batch in (1, 8):
            step = at_batch_1 * (1 + 0.01 * batch)
            whole = PREFILL * batch / tp + (TOKENS - 1) * step
            found += [
                figure("batch_latency", whole, tp, batch=batch),
                figure("per_token_latency", token_time(step, whole), tp, batch=batch),
                figure("throughput", 1e3 * batch * TOKENS / whole, tp, batch=batch),
            ]
        offline = 20.0 * 6.0 / at_batch_1
        load = {"batch": None, "workload": "throughput", "output_len": None}
        found += [
            figure("offline_throughput", offline, tp, **load),
            figure("throughput", offline * 100, tp, **load),
            figure("itl_p50", at_batch_1 * 1.02, tp),
            figure("ttft_p50", PREFILL / tp**0.5 + 8, tp),
        ]
    return found


def made_up(figures: list[Figure]) -> Reference:
    return replace(shipped(), figures=tuple(figures))


def test_consistent_figures_have_no_finding() -> None:
    assert examine(made_up(consistent(lambda step, whole: step))) == []


def test_a_whole_latency_per_token_is_found_and_nothing_else() -> None:
    found = examine(made_up(consistent(lambda step, whole: whole / TOKENS)))
    assert [finding.check for finding in found] == ["prefill-in-token-time"]


@pytest.mark.parametrize(
    ("check", "metric", "batch", "tp", "factor"),
    [
        ("rate-identity", "throughput", 8, 2, 1.5),
        ("rate-identity", "batch_latency", 8, 2, 0.9),
        ("below-floor", "per_token_latency", 1, 1, 0.7),
        ("below-floor", "itl_p50", None, 2, 0.4),
        ("offline-scaling", "offline_throughput", None, 2, 1 / 1.5),
        ("token-time-scaling", "itl_p50", None, 2, 1.5),
        ("unexplained-ttft", "ttft_p50", None, 1, 10),
    ],
)
def test_one_wrong_figure(
    check: str, metric: str, batch: int | None, tp: int, factor: float
) -> None:
    figures = [
        replace(one, value=one.value * factor)
        if (one.metric, one.batch, one.tp) == (metric, batch, tp)
        else one
        for one in consistent(lambda step, whole: step)
    ]
    assert check in {finding.check for finding in examine(made_up(figures))}


def test_two_values_beyond_rounding_and_noise_only() -> None:
    figures = consistent(lambda step, whole: step)
    again = [replace(one, table="other") for one in figures]
    slightly = [replace(one, value=one.value * 1.005) for one in again]
    clearly = [replace(one, value=one.value * 1.03) for one in again]
    assert not by_check(examine(made_up([*figures, *again])))["two-values"]
    assert not by_check(examine(made_up([*figures, *slightly])))["two-values"]
    found = by_check(examine(made_up([*figures, *clearly])))["two-values"]
    assert len(found) == len(figures)
    elsewhere = [replace(one, node="4-GPU") for one in clearly]
    assert not by_check(examine(made_up([*figures, *elsewhere])))["two-values"]


def test_ttft_in_one_ratio_to_itl() -> None:
    times = (5.0, 7.0, 9.0)
    places = [{"tp": at, "gpus": at} for at in (1, 2, 4)]
    figures = [
        found
        for time, place in zip(times, places, strict=True)
        for found in (figure("itl_p50", time, **place), figure("ttft_p50", 9 * time, **place))
    ]
    assert [finding.check for finding in examine(made_up(figures))] == ["derived-ttft"]


def test_batches_of_other_sizes_are_not_one_scaling() -> None:
    """A large batch that gains nothing from TP is no contradiction of a small one that does."""
    figures = [
        figure("per_token_latency", 20.0 if batch == 128 else 6.0 / tp**0.7, tp, batch=batch)
        for tp in (1, 2)
        for batch in (1, 128)
    ]
    assert examine(made_up(figures)) == []


# Reading.


def copy_of(folder: Path) -> Path:
    path = folder / "mine.csv"
    path.write_text(SHIPPED.read_text("utf-8"), "utf-8")
    path.with_suffix(".yaml").write_text(SHIPPED.with_suffix(".yaml").read_text("utf-8"), "utf-8")
    return path


def with_field(path: Path, column: str, value: str) -> None:
    """``value`` in a column of the first figure."""
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    lines[0][column] = value
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(lines)


def with_key(path: Path, key: str, value: object) -> None:
    place = path.with_suffix(".yaml")
    loaded = yaml.safe_load(place.read_text("utf-8"))
    loaded[key] = value
    place.write_text(yaml.safe_dump(loaded), "utf-8")


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("metric", "speed", "metric: 'speed'; allowed: batch_latency"),
        ("unit", "s", "unit: 's'; allowed: req/s, the unit of offline_throughput"),
        ("value", "fast", "value: 'fast'; allowed: a number above 0"),
        ("value", "-1", "value: '-1'; allowed: a number above 0"),
        ("value", "nan", "value: 'nan'; allowed: a number above 0"),
        ("value", "1_0", "value: '1_0'; allowed: a number above 0"),
        ("value", "1e400", "value: '1e400'; allowed: a number above 0"),
        ("gpus", "9" * 5000, "allowed: a whole number above 0"),
        ("value", "", "value: ''; allowed: it must be given"),
        ("tp", "1.5", "tp: '1.5'; allowed: a whole number above 0"),
        ("tp", "inf", "tp: 'inf'; allowed: a whole number above 0"),
        ("value", "inf", "value: 'inf'; allowed: a number above 0"),
        ("request_rate", "nan", "request_rate: 'nan'; allowed: a number above 0, or inf"),
        ("workload", "training", "workload: 'training'; allowed: latency, throughput, serve"),
        ("gpu", "V100", "gpu: 'V100'; allowed: a node class of mine.yaml: H100, H200, A100"),
    ],
)
def test_a_wrong_field_is_one_line(column: str, value: str, said: str, tmp_path: Path) -> None:
    path = copy_of(tmp_path)
    with_field(path, column, value)
    with pytest.raises(ReferenceDataError) as error:
        read_reference(path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "column 'a' is unknown; allowed: table, model"),
        ("table,model\n1,2\n", "no column gpu, node, gpus"),
        ("", "no column table"),
        (",".join(COLUMNS) + "\n", "it has no lines of values"),
        (",".join(COLUMNS) + "\na,b\n", "line 2: the number of fields is not"),
    ],
)
def test_a_wrong_file_is_one_line(text: str, said: str, tmp_path: Path) -> None:
    path = copy_of(tmp_path)
    path.write_text(text, "utf-8")
    with pytest.raises(ReferenceDataError, match=said) as error:
        read_reference(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("colour", "blue", "'colour': unknown key; allowed: title, about"),
        ("title", 3, "title: 3: allowed: text"),
        ("cards", {"H100": "Voodoo 2"}, "cards.H100: 'Voodoo 2'; allowed: a card of NVIDIA"),
        ("dtype", "int3", "dtype: 'int3'; allowed: bfloat16"),
        ("models", {"x": {"model_type": "gpt9"}}, "models.x: model_type: 'gpt9'"),
        ("models", {"x": {"model_type": "llama"}}, "models.x: hidden_size: None"),
    ],
)
def test_a_wrong_sidecar_is_one_line(key: str, value: object, said: str, tmp_path: Path) -> None:
    path = copy_of(tmp_path)
    with_key(path, key, value)
    with pytest.raises(ReferenceDataError) as error:
        read_reference(path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_all_at_once_is_a_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Requests that are sent at once wait for each other: their TTFT contradicts nothing."""
    path = copy_of(tmp_path)
    path.write_text(path.read_text("utf-8").replace(",serve,,4,", ",serve,,inf,"), "utf-8")
    rates = {one.request_rate for one in read_reference(path).figures if one.workload == "serve"}
    assert rates == {float("inf")}
    assert by_check(examine(read_reference(path)))["unexplained-ttft"] == []
    assert "serve, all at once" in page.markdown(read_reference(path))
    assert main(["reference", str(path), "--json"]) == 1
    figures = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["figures"]
    assert {one["request_rate"] for one in figures if one["workload"] == "serve"} == {"inf"}


def test_no_sidecar_and_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copy_of(tmp_path)
    path.with_suffix(".yaml").write_text("a: [", "utf-8")
    assert main(["reference", str(path)]) == 2
    path.with_suffix(".yaml").unlink()
    assert main(["reference", str(path)]) == 2
    assert main(["reference", str(tmp_path / "none.csv")]) == 2
    path.write_bytes(b"\xff\xfe\x00")
    assert main(["reference", str(path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert "mine.yaml: No such file" in lines[1]
    assert "none.csv: No such file" in lines[2]


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reference"]) == 1
    text = capsys.readouterr().out
    assert "63 figures" in text
    assert "below-floor: Is a decode step faster than the memory? Nothing found." in text
    assert main(["reference", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert len(found["figures"]) == 63
    assert {finding["check"] for finding in found["findings"]} <= set(CHECKS)


def test_cards_are_in_the_table() -> None:
    assert all(card.name in cards() for card in shipped().cards.values())
