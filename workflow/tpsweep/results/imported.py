"""Results of vLLM's own benchmarks as rows of a results folder, marked ``imported``.

``vllm bench latency|throughput|serve`` say little of what they ran on: what neither a file nor the
user says is null. No two imported rows are of one series, and none is of a series with
rows of ours: they stand beside each other in the tables, and no difference is judged.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tpsweep.core import results_paths, saturation
from tpsweep.core.atomic import replacing
from tpsweep.core.axes import AXES, BY_NAME
from tpsweep.core.cell import slug
from tpsweep.core.layout import Layout
from tpsweep.core.manifest import SCHEMA
from tpsweep.core.row_file import write_row
from tpsweep.core.schema import PERCENTILES, SERVE_METRICS
from tpsweep.core.workloads import LATENCY, SERVE, THROUGHPUT

SITE = "imported"
"""What stands for the site of a row that was not measured here."""
_KINDS = {
    SERVE: ("request_throughput", "duration", "completed", "num_prompts", "model_id"),
    THROUGHPUT: ("elapsed_time", "num_requests", "requests_per_second"),
    LATENCY: ("avg_latency", "latencies"),
}
"""Keys by which the result of each benchmark is known."""
ALLOWED = (
    "allowed: the JSON of vllm bench latency (--output-json), throughput (--output-json) or serve "
    "(--save-result), or a folder of vllm bench sweep"
)
_SAID = {
    "tp": ("tp", "tensor_parallel_size", "tensor-parallel-size"),
    "pp": ("pp", "pipeline_parallel_size", "pipeline-parallel-size"),
    "replicas": ("replicas", "data_parallel_size", "data-parallel-size"),
    "dtype": ("dtype",),
    "batch": ("batch", "batch_size", "batch-size"),
    "input_len": ("input_len", "random_input_len", "random-input-len", "input-len"),
    "output_len": ("output_len", "random_output_len", "random-output-len", "output-len"),
    "num_prompts": ("num_prompts", "num_requests"),
    "max_concurrency": ("max_concurrency",),
    "gpu": ("gpu",),
    "gpu_card": ("gpu_card",),
    "dataset": ("dataset", "dataset_name"),
    "vllm_version": ("vllm_version",),
}
"""Where a file may say an axis: its own keys, ``--metadata``, and a sweep's parameters."""
_RANGE_RATIO = ("random_range_ratio", "random-range-ratio")
_ZERO = (0, "0", "0.0")
"""Of a range of lengths: all are the same."""
SETTABLE = tuple(
    axis.name
    for axis in AXES
    if axis.name not in ("workload", "site", "gpus", "run", "speed", "prefix_len", "prefix_share")
)
"""Axes that the user may give for all files."""


class ImportRefusedError(ValueError):
    """A file that cannot be a row; one line for people."""


@dataclass(frozen=True)
class Imported:
    """One result: ``row`` has the columns of ``core.schema`` that are known."""

    row: dict[str, Any]
    path: str

    @property
    def manifest(self) -> dict[str, Any]:
        """Its line of the manifest: a cell that has been measured."""
        named = {axis.name: self.row.get(axis.name) for axis in AXES}
        return {
            **named,
            "cell_id": self.row["cell_id"],
            "path": self.path,
            "status": "planned",
            "session": f"imported-{self.row['cell_id']}",
            "settings": f"imported/{self.row['cell_id']}",
            "entry": "imported",
            "workload_label": self.row["imported"],
        }


def parse_setting(text: str) -> tuple[str, Any]:
    """``tp=2`` as the axis and its value. Raises ``ImportRefusedError``."""
    name, _, value = text.partition("=")
    if name not in SETTABLE or not value:
        raise ImportRefusedError(
            f"--set {text}: allowed: KEY=VALUE with a KEY of {', '.join(SETTABLE)}"
        )
    return name, _value(name, value, f"--set {text}")


def read(paths: Sequence[Path], given: Mapping[str, Any]) -> list[Imported]:
    """Every result in the files and sweep folders; ``given`` are axes that the user says.

    Raises ``ImportRefusedError``, one line, for a file that holds no result of a benchmark, or
    one of failed requests.
    """
    found: dict[str, Imported] = {}
    for path in paths:
        for file in _files(path):
            for place, result in enumerate(_results(file)):
                one = _imported(file, place, result, given)
                found.setdefault(one.row["cell_id"], one)
    return list(found.values())


def write(results: Path, imported: Sequence[Imported]) -> int:
    """Add rows to the results folder; returns how many were not there before.

    Raises ``ImportRefusedError`` if the folder holds a sweep of its own, and ``OSError``.
    """
    manifest = results / results_paths.MANIFEST
    lines: list[dict[str, Any]] = []
    if manifest.exists():
        try:
            lines = pq.ParquetFile(manifest).read().to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise ImportRefusedError(f"{manifest}: not a readable manifest: {error}") from error
        if any(line.get("entry") != "imported" for line in lines):
            raise ImportRefusedError(
                f"{results}: has the manifest of a sweep, which the next run writes again; "
                "allowed: a folder for imported rows alone (put it beside the sweep's: tpsweep "
                f"report {results} FOLDER)"
            )
    known = {line["cell_id"] for line in lines}
    fresh = [one for one in imported if one.row["cell_id"] not in known]
    for one in imported:
        write_row(one.row, results / one.path)
    kept = [line for line in lines if line["cell_id"] not in {o.row["cell_id"] for o in imported}]
    records = [*kept, *(one.manifest for one in imported)]
    manifest.parent.mkdir(parents=True, exist_ok=True)
    with replacing(manifest) as temporary:
        pq.write_table(pa.Table.from_pylist(records, schema=SCHEMA), temporary, compression="zstd")
    return len(fresh)


def _files(path: Path) -> list[Path]:
    """A file, or the runs of a sweep's folder: no warm-ups, failures and summaries."""
    if not path.is_dir():
        return [path]
    runs = sorted(path.rglob("run=*.json"))
    files = [file for file in runs if not file.name.endswith(".failure.json")]
    if not files:
        raise ImportRefusedError(f"{path}: a folder without run=N.json; {ALLOWED}")
    return files


def _results(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file: one, or several of ``--append-result``."""
    try:
        text = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", None) or "not text"
        raise ImportRefusedError(f"{path}: {said}; {ALLOWED}") from error
    decoder, place = json.JSONDecoder(), 0
    while place < len(text):
        try:
            found, end = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            raise ImportRefusedError(f"{path}: not JSON: {error}; {ALLOWED}") from error
        for one in found if isinstance(found, list) else [found]:
            if not isinstance(one, dict):
                raise ImportRefusedError(f"{path}: not a benchmark's result; {ALLOWED}")
            yield one
        place = end
        while place < len(text) and text[place].isspace():
            place += 1
    if not text:
        raise ImportRefusedError(f"{path}: an empty file; {ALLOWED}")


def _imported(file: Path, place: int, result: dict[str, Any], given: Mapping[str, Any]) -> Imported:
    kind = next((name for name, keys in _KINDS.items() if result.keys() >= set(keys)), None)
    if kind is None:
        keys = ", ".join(map(str, result))[:60] or "none"
        raise ImportRefusedError(f"{file}: not a benchmark's result (keys: {keys}); {ALLOWED}")
    named = {name: _said(name, result, file) for name in _SAID}
    if named["replicas"] == given.get("dp"):  # the file has one name for both
        named["replicas"] = BY_NAME["replicas"].default
    _refuse_contradictions(file, named, given)
    model = result.get("model_id")
    if not isinstance(model, str | None):
        raise ImportRefusedError(f"{file}: model_id: {model!r}; allowed: text")
    named |= {"model": model, "site": SITE, "workload": kind, "run": 0, **given}
    if kind == SERVE:
        named["request_rate"] = _steady_rate(result, file)
    if any(result.get(key) not in (None, *_ZERO) for key in _RANGE_RATIO):
        named |= dict.fromkeys(("input_len", "output_len"))  # they are means
    named["gpus"] = Layout.of(named).gpus or None
    figures = {SERVE: _serve, THROUGHPUT: _throughput, LATENCY: _latency}[kind](result, file)
    if kind == SERVE and named["input_len"] is None and named["output_len"] is None:
        named |= {name: _same(result.get(f"{name}s")) for name in ("input_len", "output_len")}
    if named["gpus"] and (rate := figures.get("output_tok_s")) is not None:
        figures["output_tok_s_per_gpu"] = rate / named["gpus"]
    content = json.dumps([result, sorted((k, str(v)) for k, v in given.items())], sort_keys=True)
    cell_id = hashlib.sha256(content.encode()).hexdigest()[:12]
    words = f"vllm bench {kind}: {file.name}" + (f", result {place + 1}" if place else "")
    words += "".join(f", {said}" for said in _arrivals(result)) if kind == SERVE else ""
    row = {
        "cell_id": cell_id,
        **named,
        **{name: value for name, value in figures.items() if value is not None},
        "vllm_version_ran": named["vllm_version"],
        "tp_ran": named["tp"],
        "started_at": _date(result.get("date")),
        "imported": words,
    }
    path = f"cells/{kind}/{SITE}/{slug(str(named['model'] or 'unknown'))}-{cell_id}.parquet"
    return Imported(row, path)


def _said(name: str, result: Mapping[str, Any], file: Path) -> Any:
    for key in _SAID[name]:
        if result.get(key) is not None:
            return _value(name, result[key], f"{file}: {key}: {result[key]!r}")
    return BY_NAME[name].default


def _value(name: str, value: Any, where: str) -> Any:
    """The value of an axis in its type: metadata are text."""
    kind = BY_NAME[name].type
    if kind is bool:
        if str(value).lower() not in ("true", "false"):
            raise ImportRefusedError(f"{where}: allowed: true, false")
        return str(value).lower() == "true"
    try:
        if kind is float:
            return float(value)
        if kind is int:
            number = float(value)
            if not number.is_integer() or not 1 <= number <= 1e9:
                raise ValueError(value)
            return int(number)
    except (TypeError, ValueError):
        raise ImportRefusedError(f"{where}: allowed: a number above 0") from None
    return str(value)


def _number(result: Mapping[str, Any], key: str, file: Path) -> float | None:
    """A figure of the file, None if it is not there. No other value than a number of 0 or more."""
    value = result.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ImportRefusedError(f"{file}: {key}: {value!r}; allowed: a number of 0 or more")
    return float(value)


def _rate(value: Any, file: Path) -> float | None:
    if value is None:
        return None
    try:
        rate = float(value)
    except (TypeError, ValueError):
        rate = math.nan
    if not rate > 0:
        said = f"{file}: request_rate: {value!r}; allowed: a number above 0, or inf"
        raise ImportRefusedError(said)
    return rate


def _steady_rate(result: Mapping[str, Any], file: Path) -> float | None:
    """The rate offered; None if it rose during the benchmark, whatever ``request_rate`` says."""
    rate = _rate(result.get("request_rate"), file)
    return None if result.get("ramp_up_strategy") else rate


def _arrivals(result: Mapping[str, Any]) -> Iterator[str]:
    """What a rate alone does not say: how requests came, and to whom if not to vLLM."""
    if result.get("ramp_up_strategy"):
        start, end = result.get("ramp_up_start_rps"), result.get("ramp_up_end_rps")
        yield f"{result['ramp_up_strategy']} ramp-up from {start} to {end} requests/s"
    if result.get("burstiness") not in (None, 1) and result.get("request_rate") != "inf":
        yield f"burstiness {result['burstiness']}"
    backend = str(result.get("backend") or "vllm")
    if not backend.startswith(("vllm", "openai")):
        yield f"backend {backend}"


def _refuse_contradictions(file: Path, named: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """What the user says of all files must not be what a file says otherwise."""
    for name, value in given.items():
        said = named.get(name)
        if name in _SAID and said not in (None, BY_NAME[name].default, value):
            raise ImportRefusedError(
                f"--set {name}={value}: {file} says {name} {said}; allowed: {said}, or without it"
            )


def _serve(result: Mapping[str, Any], file: Path) -> dict[str, Any]:
    failed = _number(result, "failed", file)
    asked = _said("num_prompts", result, file)
    if failed is None and asked is not None:
        failed = asked - (_number(result, "completed", file) or 0)
    if failed and failed > 0:
        raise ImportRefusedError(
            f"{file}: {failed:.0f} of {result.get('num_prompts', '?')} requests failed: their "
            "times are in no figure; run the benchmark again"
        )
    request_s = _number(result, "request_throughput", file)
    output_tok_s = _number(result, "output_throughput", file)
    figures: dict[str, Any] = {
        "request_s": request_s,
        "request_s_samples": [request_s],
        "output_tok_s": output_tok_s,
        "output_tok_s_samples": None if output_tok_s is None else [output_tok_s],
        "total_tok_s": _number(result, "total_token_throughput", file),
        "goodput_request_s": _number(result, "request_goodput", file),
        "repeats": 1,
    }
    most = _number(result, "max_concurrent_requests", file)
    figures["max_in_flight"] = None if most is None else int(most)
    if _steady_rate(result, file) == math.inf:
        figures["saturated"] = saturation.all_at_once(result.get("max_concurrency"))
    else:  # the arrivals are not told
        figures["saturated"] = saturation.NOT_SHOWN
    for name, _, _ in SERVE_METRICS:
        theirs = "e2el" if name == "e2e" else name
        for percentile in PERCENTILES:
            figures[f"{name}_p{percentile}_ms"] = _number(
                result, f"p{percentile}_{theirs}_ms", file
            )
        if figures[f"{name}_p50_ms"] is None:
            figures[f"{name}_p50_ms"] = _number(result, f"median_{theirs}_ms", file)
    for name in ("ttft", "itl"):
        if (median := figures[f"{name}_p50_ms"]) is not None:
            figures[f"{name}_p50_ms_samples"] = [median]
    return figures


def _throughput(result: Mapping[str, Any], file: Path) -> dict[str, Any]:
    request_s = _number(result, "requests_per_second", file)
    return {
        "request_s": request_s,
        "request_s_samples": [request_s],
        "total_tok_s": _number(result, "tokens_per_second", file),
        "repeats": 1,
    }


def _latency(result: Mapping[str, Any], file: Path) -> dict[str, Any]:
    values = result["latencies"]
    whole = isinstance(values, list) and values
    if not whole or not all(type(v) in (int, float) and 0 < v < math.inf for v in values):
        raise ImportRefusedError(f"{file}: latencies: allowed: a list of numbers above 0")
    samples = sorted(1e3 * value for value in values)
    middle = len(samples) // 2
    median = (samples[middle] + samples[~middle]) / 2
    return {
        "e2e_ms": median,
        "e2e_ms_samples": [1e3 * value for value in values],
        "repeats": len(values),
    }


def _same(lengths: Any) -> int | None:
    """The one length that all requests have."""
    if not isinstance(lengths, list) or len(set(map(str, lengths))) != 1:
        return None
    one = lengths[0]
    return one if isinstance(one, int) and not isinstance(one, bool) and one > 0 else None


def _date(text: Any) -> str | None:
    """vLLM's ``20261130-004600``, local time without a zone, as ISO 8601."""
    if not isinstance(text, str) or len(text) != 15 or not text.replace("-", "").isdigit():
        return None
    return f"{text[:4]}-{text[4:6]}-{text[6:8]}T{text[9:11]}:{text[11:13]}:{text[13:15]}"
