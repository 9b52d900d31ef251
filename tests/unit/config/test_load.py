"""Every mistake in config.yaml is one line that names the key, the value and what is allowed."""

import copy
import json
import math
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tpsweep.config.engine_arguments import OWNED
from tpsweep.config.load import Config, ConfigError, load_config
from tpsweep.config.settings import json_schema
from tpsweep.core.axes import BACKENDS
from tpsweep.core.layout import Layout
from tpsweep.core.workloads import WORKLOADS
from tpsweep.engine.vllm_api import ALLREDUCE

ROOT = Path(__file__).parents[3]
SCHEMA = ROOT / "workflow" / "schemas" / "config.schema.json"
GOOD: dict[str, Any] = {
    "vllm_version": "0.32.0",
    "models": {
        "tiny": {
            "shape": "workflow/models/tiny-llama.json",
            "dtype": "float32",
            "weights": "dummy",
        },
        "eight": {
            "path": "meta-llama/Llama-3.1-8B-Instruct",
            "shape": "workflow/models/llama-3.1-8b.json",
            "dtype": "bfloat16",
            "weights": "real",
        },
    },
    "variants": {"default": {}, "eager": {"enforce_eager": True}},
    "allreduce_backends": ["auto", "nccl"],
    "gpus": ["here"],
    "tp": [1, 2],
    "runs": 2,
    "workloads": {
        "decode": {
            "kind": "latency",
            "models": ["tiny"],
            "batch": [1, 4],
            "input_len": [64],
            "output_len": [32],
            "engine": {"max_model_len": 512, "max_num_seqs": 16},
        },
        "load": {
            "kind": "serve",
            "models": ["eight"],
            "num_prompts": [10],
            "input_len": [8],
            "output_len": [8],
            "request_rate": [4, "inf"],
        },
    },
    "exclude": [{"model": "tiny", "batch": 4, "reason": "a reason"}],
}
MISSING = object()


def load(path: str = "", value: object = None, base: Path = ROOT) -> Config:
    """Load GOOD with the key at ``path`` set to ``value`` (``MISSING``: deleted)."""
    data = copy.deepcopy(GOOD)
    if path:
        *parents, last = path.split("/")
        place: Any = data
        for key in parents:
            place = place[int(key) if isinstance(place, list) else key]
        if value is MISSING:
            del place[last]
        else:
            place[int(last) if isinstance(place, list) else last] = value
    return load_config(data, base)


def test_a_tilde_is_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load("results", "~/sweeps/r").results == f"{tmp_path}/sweeps/r"
    assert load("hf_home", "~").hf_home == str(tmp_path)
    with pytest.raises(ConfigError, match=rf"models.eight.path: '{tmp_path}/m': no such folder"):
        load("models/eight/path", "~/m")
    assert load("results", "r/~/x").results == "r/~/x"


def test_a_good_config_loads() -> None:
    config = load()
    tiny, eight = config.cell_models["tiny"], config.cell_models["eight"]
    assert (tiny.path, tiny.is_hub, tiny.revision) == ("results/models/tiny", False, None)
    assert tiny.digest is not None
    assert (eight.is_hub, eight.revision, eight.digest) == (True, "main", None)
    assert config.shapes["eight"] is not None
    assert (config.results, config.hf_home, config.engine_start_minutes) == ("results", None, 15)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        # unknown keys at every level, and what there is instead
        ("resutls", "r", "resutls: 'r': unknown key; allowed: results, vllm_version"),
        ("models/tiny/revison", "x", "models.tiny.revison: 'x': unknown key; allowed: path, rev"),
        ("workloads/decode/bach", [1], "workloads.decode.bach: [1]: unknown key; allowed: "),
        ("workloads/decode/engine/seqs", 1, "workloads.decode.engine.seqs: 1: unknown key"),
        ("workloads/load/slo", {"tt": 1}, "workloads.load.slo.tt: 1: unknown key; allowed: ttft"),
        ("exclude/0/modle", "x", "exclude.0.modle: 'x': unknown key; allowed: workload"),
        ("prices", {"H900": 2.5}, "prices: 'H900': allowed: "),
        ("prices", {"here": 0}, "prices.here: 0: allowed: greater than 0"),
        ("prices", {"here": float("inf")}, "prices.here: inf: allowed: a finite number"),
        # wrong types: nothing is converted in silence
        ("runs", "2", "runs: '2': allowed: a valid integer"),
        ("runs", True, "runs: True: allowed: a valid integer"),
        ("runs", 1.0, "runs: 1.0: allowed: a valid integer"),
        ("tp", 2, "tp: 2: allowed: a list, in [ ]"),
        ("tp", ["2"], "tp.0: '2': allowed: a valid integer"),
        ("vllm_version", 0.32, "vllm_version: 0.32: allowed: text"),
        ("vllm_version", "0.32", "vllm_version: '0.32': allowed: a full version"),
        ("models", [], "models: []: allowed: "),
        ("models/tiny", None, "models.tiny: None: allowed: "),
        ("models/tiny/dtype", "int3", "models.tiny.dtype: 'int3': allowed: 'bfloat16'"),
        ("models/tiny/dtype", MISSING, "models.tiny.dtype: None: missing"),
        ("vllm_version", MISSING, "vllm_version: None: missing"),
        ("models/tiny/weights", "fake", "models.tiny.weights: 'fake': allowed: 'real' or 'dummy'"),
        ("allreduce_backends", ["ring"], "allreduce_backends.0: 'ring': allowed: 'auto'"),
        ("workloads/decode/kind", "speed", "workloads.decode.kind: 'speed': allowed: latency, th"),
        ("workloads/decode/kind", MISSING, "workloads.decode.kind: None: allowed: latency, thr"),
        # axes
        ("workloads/decode/batch", [], "workloads.decode.batch: []: "),
        ("workloads/decode/batch", [0], "workloads.decode.batch.0: 0: allowed: greater than or"),
        ("workloads/decode/batch", [4, -1], "workloads.decode.batch.1: -1: allowed: greater than"),
        ("workloads/decode/batch", [1, 2, 1], "workloads.decode.batch: [1, 2, 1]: allowed: each "),
        ("gpus", [], "gpus: []: "),
        ("gpus", ["a", "a"], "gpus: ['a', 'a']: allowed: each value once; a"),
        ("workloads", {}, "workloads: {}: "),
        ("workloads/decode/repeats", 0, "workloads.decode.repeats: 0: "),
        ("workloads/load/request_rate", [0], "workloads.load.request_rate.0: 0: allowed: greater"),
        ("workloads/load/request_rate", ["fast"], "workloads.load.request_rate.0: 'fast': allowed"),
        ("workloads/load/repeats", 2, "workloads.load.repeats: 2: allowed: greater than or equal"),
        ("workloads/load/request_rate", [float("nan")], "request_rate.0: nan: allowed: a number"),
        ("workloads/load/slo", {"e2e_ms": float("inf")}, "slo.e2e_ms: inf: allowed: a finite numb"),
        ("runs", 10**9, "config: runs: 1000000000: allowed: up to 100000, the limit per sweep"),
        ("workloads/decode/runs", 10**9, "workloads.decode.runs: 1000000000: allowed: up to"),
        ("workloads/decode/output_len", list(range(1, 99999)), "allowed: up to 100000 cells in a"),
        # what does not fit together
        ("tp", [3], "tp: 3: it does not divide the model's 4 attention heads (tiny)"),
        ("workloads/decode/input_len", [500], "workloads.decode.input_len + output_len: 532: "),
        ("workloads/decode/batch", [17], "workloads.decode.batch: 17: allowed: up to engine.max_"),
        (
            "workloads/decode/engine/max_model_len",
            4096,
            "engine.max_model_len: 4096: allowed: up to the 2048 positions of tiny",
        ),
        (
            "workloads/decode/engine/max_num_batched_tokens",
            8,
            "allowed: max_num_batched_tokens >= max_num_seqs",
        ),
        ("workloads/decode/engine/gpu_memory_utilization", 1.5, "1.5: allowed: less than or eq"),
        ("workloads/load/input_len", MISSING, "dataset: random needs input_len and output_len"),
        ("workloads/load/dataset", "sharegpt", "dataset: sharegpt needs a dataset_path"),
        ("workloads/load/request_rate", MISSING, "every other dataset needs a request_rate"),
        ("workloads/load/speed", [2.0], "every other dataset needs a request_rate and no speed"),
        ("workloads/load/speed", [0], "workloads.load.speed.0: 0: allowed: greater than"),
        ("workloads/load/prefix_len", [4], "allowed: prefix_len and prefix_share together"),
        ("workloads/load/prefix_share", [0.5], "allowed: prefix_len and prefix_share together"),
        # names
        ("workloads/decode/models", ["huge"], "workloads.decode.models: 'huge': allowed: tiny, ei"),
        ("workloads/decode/gpus", ["x"], "workloads.decode.gpus: 'x': allowed: here"),
        ("workloads/decode/tp", [4], "workloads.decode.tp: 4: allowed: 1, 2"),
        ("workloads/decode/variants", ["x"], "workloads.decode.variants: 'x': allowed: default, "),
        ("workloads/decode/allreduce_backends", ["custom"], "'custom': allowed: auto, nccl"),
        ("exclude/0/model", "huge", "exclude.0.model: 'huge': allowed: tiny, eight"),
        (
            "exclude/0",
            {"reason": "r"},
            "exclude.0: {'reason': 'r'}: allowed: a reason and at",
        ),
        ("exclude/0/reason", MISSING, "exclude.0.reason: None: missing"),
        ("gpus", ["a\nb"], r"gpus.0: 'a\nb': allowed: 1 to 100 characters"),
        ("gpus", ["x" * 101], "allowed: 1 to 100 characters"),
        ("gpus", [" "], "gpus.0: ' ': allowed: 1 to 100 characters"),
        ("variants/" + "v" * 300, {}, "allowed: 1 to 100 characters"),
        ("results", "a\x1bb", r"results: 'a\x1bb': allowed: 1 to 1000 characters"),
        # engine arguments
        ("variants/eager", {"tensor_parallel_size": 4}, "tensor_parallel_size is set by tp"),
        ("variants/eager", {"pipeline_parallel_size": 2}, "pipeline_parallel_size is set by pp"),
        ("variants/eager", {"data_parallel_backend": "ray"}, "data_parallel_backend is set by"),
        ("variants/eager", {"nnodes": 2}, "nnodes is set by tp, pp and the site's per_node"),
        (
            "variants/eager",
            {"distributed_executor_backend": "ray"},
            "distributed_executor_backend: 'ray'; allowed: mp, uni (no Ray)",
        ),
        (
            "variants/eager",
            {"distributed_exec": "ray"},
            "distributed_exec is short for another name; allowed: distributed_executor_backend",
        ),
        *(
            ("variants/eager", {given: 2}, f"{given!r} ({name}) is set by {owner}")
            for given, name, owner in (
                ("tp", "tensor_parallel_size", "tp; allowed"),
                ("-tp", "tensor_parallel_size", "tp; allowed"),
                ("--tensor-parallel-size", "tensor_parallel_size", "tp; allowed"),
                ("Tensor-Parallel-Size", "tensor_parallel_size", "tp; allowed"),
                ("--pipeline-parallel", "pipeline_parallel_size", "pp; allowed"),
                ("-pp", "pipeline_parallel_size", "pp; allowed"),
                ("-n", "nnodes", "tp, pp and the site's per_node"),
                ("-pcp", "prefill_context_parallel_size", "nothing (not measured; allowed: tp,"),
                ("-dcp", "decode_context_parallel_size", "dcp; allowed"),
                ("dp", "data_parallel_size", "dp or replicas; allowed"),
                ("-dpl", "data_parallel_size_local", "dp or replicas; allowed"),
                ("no_enable_expert_parallel", "enable_expert_parallel", "ep; allowed"),
                ("--no-enable-expert-parallel", "enable_expert_parallel", "ep; allowed"),
                ("profiler-config.profiler", "profiler_config", "the capture workload"),
            )
        ),
        (
            "workloads/decode/engine/pipeline_parallel_size",
            2,
            "unknown key; allowed: max_model_len",
        ),
        ("pp", [0], "allowed"),
        ("tp", MISSING, "tp: None: missing: give it, or layouts"),
        # layouts
        ("layouts", [{"tp": 2}], "tp: [1, 2]: allowed: layouts, or the lists tp, pp, ep"),
        ("workloads/decode/layouts", [{"tp": 2}], "decode.layouts: 'TP=2': allowed: part of"),
        ("layouts", [], "layouts: []: allowed: at least 1 entry"),
        ("layouts", [{"tp": 2}, {"tp": 2, "pp": 1}], "each layout once; TP=2 appears twice"),
        ("layouts", [{"tp": 0}], "layouts.0.tp: 0: allowed: greater than or equal to 1"),
        ("layouts", [{"tpp": 2}], "layouts.0.tpp: 2: unknown key; allowed: tp, pp, ep"),
        ("layouts", {"tp": 2}, "layouts: {'tp': 2}: allowed: a list"),
        ("variants/eager", {"max_model_len": 4}, "max_model_len is set by the workload's engine"),
        (
            "variants/eager",
            {"--enforce-eager": True},
            "is not an engine argument; allowed: Python names",
        ),
        ("variants/eager", {"swap": float("nan")}, "allowed: finite numbers"),
        ("variants/eager", {"kv_cache_dtype": "int1"}, "kv_cache_dtype: int1; allowed: auto"),
        ("variants/eager", {"cpu_offload_gb": -4}, "cpu_offload_gb: -4; allowed: a number of 0"),
        ("variants/eager", {"cpu_offload_gb": "4"}, "cpu_offload_gb: '4'; allowed: a number of 0"),
        (
            "variants/eager",
            {"decode_context_parallel_size": 2},
            "decode_context_parallel_size is set by dcp; allowed: vLLM's other",
        ),
        (
            "variants/eager",
            {"data_parallel_size": 2},
            "data_parallel_size is set by dp or replicas; allowed: vLLM's other",
        ),
        (
            "variants/eager",
            {"speculative_config": "ngram"},
            "speculative_config: 'ngram'; allowed: a mapping",
        ),
        (
            "variants/eager",
            {"speculative_config": {"method": "ngram", "num_speculative_tokens": -2}},
            "speculative_config: num_speculative_tokens: -2; allowed: a whole number above 0",
        ),
        (
            "variants/eager",
            {"compilation_config": {"pass_config": {"fuse_allreduce_rms": False}}},
            "fuse_allreduce_rms is set by allreduce_backends",
        ),
        # files
        ("models/tiny/shape", "no/such.json", "models.tiny.shape: 'no/such.json': no shape: "),
        ("models/tiny/shape", MISSING, "models.tiny: {'dtype': 'float32', 'weights': 'dummy'}: "),
        ("models/tiny/weights", "real", "weights: real needs a path"),
        ("models/tiny/revision", "main", "models.tiny.revision: 'main': allowed: for a hub model"),
        ("models/tiny/path", "./no/such", "models.tiny.path: './no/such': no such folder"),
        ("models/tiny/path", "/no such/$(x)", "models.tiny.path: '/no such/$(x)': no such folder"),
        ("models/tiny/path", "x" * 300, "File name too long; allowed: a folder with a config.json"),
        ("models/tiny/path", "workflow", "models.tiny.path: 'workflow': it has no config.json"),
    ],
)
def test_a_mistake_is_one_line(path: str, value: object, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(path, value)
    message = str(caught.value)
    assert said in message
    assert message.startswith("config: ")
    assert "\n" not in message
    assert len(message) < 1000


def listing(given: Any, **of_decode: Any) -> Config:
    """A config with ``layouts`` in place of lists, and more keys of its static batch."""
    data = copy.deepcopy(GOOD)
    del data["tp"]
    data["workloads"]["decode"] |= of_decode
    return load_config({**data, "layouts": given}, ROOT)


TP2, PP2, PAIR = {"tp": 2}, {"pp": 2}, {"replicas": 2}


def test_layouts_stand_in_place_of_the_product_of_their_lists() -> None:
    decode, served = listing([TP2, PP2, PAIR]).settings.workloads.values()
    config = listing([TP2, PP2, PAIR])
    # A static batch has no replicas; an axis that an entry does not name is at its least.
    assert config.layouts(decode) == [Layout(tp=2), Layout(tp=1, pp=2)]
    assert config.layouts(served) == [Layout(tp=2), Layout(tp=1, pp=2), Layout(tp=1, replicas=2)]
    narrow = listing([TP2, PP2, PAIR], layouts=[PP2])
    assert narrow.layouts(narrow.settings.workloads["decode"]) == [Layout(tp=1, pp=2)]
    assert len(narrow.layouts(narrow.settings.workloads["load"])) == 3


@pytest.mark.parametrize(
    ("layouts", "of_decode", "said"),
    [
        ([TP2], {"layouts": [PP2]}, "decode.layouts: 'TP=1 x PP=2': allowed: part of the sweep's"),
        ([TP2], {"tp": [2]}, "workloads.decode.tp: [2]: allowed: layouts, or the lists tp, pp"),
        ([TP2, PAIR], {"layouts": [PAIR]}, "'TP=1 x 2 replicas': allowed: replicas with kind"),
        ([PAIR], {}, "workloads.decode: layouts: 'TP=1 x 2 replicas': allowed: at least one that"),
        ([{"tp": 3}], {}, "layouts: 'TP=3': it does not divide the model's 4 attention heads"),
    ],
)
def test_a_mistake_in_layouts_is_one_line(
    layouts: Any, of_decode: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        listing(layouts, **of_decode)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_an_empty_file_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"config: \(top level\)|config: vllm_version"):
        load_config({}, ROOT)


def test_sharegpt_needs_real_weights(tmp_path: Path) -> None:
    entry = {
        "kind": "throughput",
        "num_prompts": [3],
        "dataset": "sharegpt",
        "dataset_path": "x.json",
    }
    with pytest.raises(ConfigError, match=r"workloads\.load\.dataset: 'sharegpt': not with tiny"):
        load("workloads/load", {**entry, "models": ["tiny"]})
    load("workloads/load", {**entry, "models": ["eight"]})


def test_names_that_make_the_same_folder_are_refused() -> None:
    with pytest.raises(ConfigError, match="'a b': allowed: names that also differ"):
        load("models", {"a_b": GOOD["models"]["tiny"], "a b": GOOD["models"]["tiny"]})


def test_an_impossible_tp_may_be_excluded() -> None:
    data = copy.deepcopy(GOOD)
    data["tp"] = [1, 3]
    data["exclude"] = [{"tp": 3, "reason": "4 heads"}]
    load_config(data, ROOT)
    data["exclude"] = [{"tp": 3, "gpu": "here", "reason": "only here"}]
    with pytest.raises(ConfigError, match="tp: 3"):
        load_config(data, ROOT)


def model_folder(folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_local_folder(tmp_path: Path) -> None:
    shape = json.loads((ROOT / "workflow/models/tiny-llama.json").read_text())
    model_folder(tmp_path / "mine", shape)
    entry = {"path": "./mine", "dtype": "float32", "weights": "dummy"}
    data = copy.deepcopy(GOOD) | {"models": {"m": entry}, "workloads": {}, "exclude": []}
    data["workloads"] = {"d": {**GOOD["workloads"]["decode"], "models": ["m"]}}
    config = load_config(data, tmp_path)
    assert not config.cell_models["m"].is_hub
    assert config.shapes["m"] is not None
    data["models"]["m"] = {**entry, "weights": "real"}
    with pytest.raises(ConfigError, match=r"models\.m\.path: '\./mine': it has no \*\.safetensors"):
        load_config(data, tmp_path)
    (tmp_path / "mine" / "model.safetensors").write_bytes(b"x")
    load_config(data, tmp_path)


def test_an_unknown_architecture_is_taken_without_a_shape(tmp_path: Path) -> None:
    model_folder(tmp_path / "mine", {"model_type": "mamba"})
    data = copy.deepcopy(GOOD) | {"exclude": []}
    data["models"] = {"m": {"path": "./mine", "dtype": "float32", "weights": "dummy"}}
    data["workloads"] = {"d": {**GOOD["workloads"]["decode"], "models": ["m"]}}
    assert load_config(data, tmp_path).shapes["m"] is None


def test_backends_are_those_that_vllm_api_knows() -> None:
    assert set(BACKENDS) == set(ALLREDUCE) - {"none"}


def test_pins_are_owned() -> None:
    pins = json.loads(json_schema())["$defs"]["Pins"]["properties"]
    assert set(pins) <= set(OWNED)


def test_the_committed_schema_is_current() -> None:
    assert SCHEMA.read_text("utf-8") == json_schema(), (
        "run: python -m tpsweep.config.settings > workflow/schemas/config.schema.json"
    )


def test_the_schema_is_closed_at_every_level() -> None:
    schema = json.loads(json_schema())
    for name, part in {"Settings": schema, **schema["$defs"]}.items():
        if part.get("type") == "object":
            assert part["additionalProperties"] is False, name


@pytest.mark.parametrize("file", ["config.yaml", "cluster/local/sweep.yaml"])
def test_the_committed_sweeps_load_and_fit_the_schema(file: str) -> None:
    data = yaml.safe_load((ROOT / file).read_text("utf-8"))
    load_config(data, ROOT)
    jsonschema.validate(data, json.loads(json_schema()))


def test_the_schema_refuses_what_the_loader_refuses() -> None:
    neither = {key: value for key, value in GOOD.items() if key != "tp"}
    for data in ({**GOOD, "resutls": "x"}, {**GOOD, "layouts": [TP2]}, neither):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(data, json.loads(json_schema()))
    jsonschema.validate({**neither, "layouts": [TP2, PP2, PAIR]}, json.loads(json_schema()))
    jsonschema.validate(GOOD, json.loads(json_schema()))


def test_a_capture_needs_a_decode_step() -> None:
    data = copy.deepcopy(GOOD)
    data["workloads"]["decode"] |= {"kind": "capture", "output_len": [1]}
    with pytest.raises(ConfigError, match=r"workloads\.decode\.output_len\.0: 1: allowed: .* 2$"):
        load_config(data, ROOT)


@pytest.mark.parametrize("label", ["Llama", None])
def test_two_models_must_not_look_alike(label: str | None) -> None:
    """In tables a label stands for the name: also that of another model."""
    data = copy.deepcopy(GOOD)
    models = data["models"]
    models["tiny"]["label"] = "eight" if label is None else label
    models["eight"]["label"] = label
    with pytest.raises(ConfigError, match=r"models\.eight\.label: .*names this model alone"):
        load_config(data, ROOT)
    models["eight"]["label"] = "another"
    load_config(data, ROOT)


CAPACITY: dict[str, Any] = {
    "kind": "capacity",
    "models": ["eight"],
    "input_len": [8],
    "output_len": [8],
}


def with_capacity(slos: Any, **changes: Any) -> Config:
    data = copy.deepcopy(GOOD) | {"slos": slos}
    data["workloads"]["most"] = CAPACITY | changes
    return load_config(data, ROOT)


def test_slos_load_in_the_order_of_the_config() -> None:
    slos = {
        "chat": {"tpot_p99_ms": 50, "ttft_p99_ms": 500},
        "bulk": {"goodput_share": 0.9, "e2e_ms": 9},
    }
    found = {name: slo.limits for name, slo in with_capacity(slos).settings.slos.items()}
    assert list(found) == ["chat", "bulk"] and found == slos


@pytest.mark.parametrize(
    ("slos", "said"),
    [
        ({}, "workloads.most.kind: 'capacity': allowed with slos at the top level"),
        ({"chat": {}}, "slos.chat: {}: allowed: at least one limit, such as ttft_p99_ms"),
        ({"chat": {"ttft_p99_ms": 0}}, "slos.chat.ttft_p99_ms: 0: allowed: greater than 0"),
        ({"chat": {"ttft_p99_ms": math.nan}}, "slos.chat.ttft_p99_ms: nan: allowed: a finite"),
        ({"chat": {"ttft_p98_ms": 5}}, "slos.chat.ttft_p98_ms: 5: unknown key; allowed: ttft_ms"),
        ({"chat": {"ttft_ms": 5}}, "allowed: goodput_share together with ttft_ms, tpot_ms or e2e"),
        ({"chat": {"goodput_share": 0.9}}, "allowed: goodput_share together with ttft_ms, tpot_"),
        (
            {"chat": {"goodput_share": 1.0, "ttft_ms": 5}},
            "slos.chat.goodput_share: 1.0: allowed: less than or equal to 0.999",
        ),
    ],
)
def test_slos_that_cannot_be_judged_are_refused(slos: Any, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        with_capacity(slos)
    assert said in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"repeats": 1}, "workloads.most.repeats: 1: allowed: greater than or equal to 2"),
        (
            {"request_rate": [4]},
            "workloads.most.request_rate: [4]: unknown key here; known: ",
        ),
        ({"probe_requests": 3}, "workloads.most.probe_requests: 3: allowed: greater than or eq"),
        (
            {"dataset": "trace", "dataset_path": "x", "input_len": None, "output_len": None},
            "allowed: dataset: trace with kind: serve; lengths with capacity",
        ),
    ],
)
def test_capacity_keys_that_make_no_search_are_refused(changes: Any, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        with_capacity({"chat": {"ttft_p90_ms": 5}}, **changes)
    assert said in str(raised.value)


@pytest.mark.parametrize("kind", ["capcity", None])
def test_every_kind_of_workload_is_named_when_one_is_mistyped(kind: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        load("workloads/decode/kind", kind)
    assert str(caught.value).endswith(f"allowed: {', '.join(WORKLOADS)}")


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (
            "replicas",
            [2],
            "replicas: [2]: unknown key here; known: workloads.<name> (serve, capacity), layouts; "
            "allowed: results",
        ),
        ("layout", [{"tp": 1}], "layout: [{'tp': 1}]: unknown key; allowed: results"),
        (
            "workloads/decode/request_rate",
            [4],
            "workloads.decode.request_rate: [4]: unknown key here; known: workloads.<name> (serve)",
        ),
        (
            "workloads/decode/max_num_seqs",
            8,
            "workloads.decode.max_num_seqs: 8: unknown key here; known: workloads.<name>.engine;",
        ),
        (
            "workloads/load/slos",
            {"chat": {"ttft_p99_ms": 5}},
            "unknown key here; known: the top level;",
        ),
        (
            "workloads/load/slo",
            {"ttft_p99_ms": 5},
            "workloads.load.slo.ttft_p99_ms: 5: unknown key here; known: slos.<name>;",
        ),
        (
            "models/tiny/tp",
            [1],
            "models.tiny.tp: [1]: unknown key here; known: the top level, workloads.<name>, "
            "layouts;",
        ),
    ],
)
def test_a_key_in_the_wrong_place_is_told_its_place(path: str, value: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        load(path, value)


@pytest.mark.parametrize("name", ["chat ", " chat", "a\tb"])
def test_two_names_never_look_the_same(name: str) -> None:
    with pytest.raises(ConfigError, match="allowed: 1 to 100 characters"):
        with_capacity({name: {"ttft_p99_ms": 5}})
    with pytest.raises(ConfigError, match="allowed: 1 to 100 characters"):
        load("variants", {"default": {}, "eager": {}, name: {}})


@pytest.mark.parametrize(
    ("slos", "changes", "said"),
    [
        (
            {"chat": {"tpot_p99_ms": 5}},
            {"output_len": [8, 1]},
            "workloads.most.output_len: 1: allowed: 2 and more tokens with slos.chat.tpot_p99_ms",
        ),
        (
            {"a": {"ttft_p90_ms": 5}, "b": {"itl_p50_ms": 5}},
            {"output_len": [1]},
            "workloads.most.output_len: 1: allowed: 2 and more tokens with slos.b.itl_p50_ms",
        ),
        (
            {"a": {"goodput_share": 0.9, "tpot_ms": 5}},
            {"output_len": [1]},
            "workloads.most.output_len: 1: allowed: 2 and more tokens with slos.a.tpot_ms",
        ),
    ],
)
def test_an_answer_of_one_token_has_no_time_per_token_to_limit(
    slos: Any, changes: Any, said: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        with_capacity(slos, **changes)
    with_capacity({"chat": {"ttft_p99_ms": 5}}, **changes)


def test_an_answer_of_one_token_has_no_tpot_for_goodput() -> None:
    said = "workloads.load.output_len: 1: allowed: 2 and more tokens with slo.tpot_ms"
    data = copy.deepcopy(GOOD)
    data["workloads"]["load"] |= {"output_len": [1], "slo": {"tpot_ms": 5}}
    with pytest.raises(ConfigError, match=re.escape(said)):
        load_config(data, ROOT)
    data["workloads"]["load"]["slo"] = {"ttft_ms": 5}
    load_config(data, ROOT)


def test_two_slos_of_the_same_limits_are_refused() -> None:
    said = (
        "slos.b: {'tpot_p50_ms': 5.0, 'ttft_p99_ms': 9.0}: allowed: limits that no other SLO has; "
        "slos.a has the same"
    )
    a, b = {"ttft_p99_ms": 9, "tpot_p50_ms": 5}, {"tpot_p50_ms": 5.0, "ttft_p99_ms": 9.0}
    with pytest.raises(ConfigError, match=re.escape(said)):
        with_capacity({"a": a, "b": b})
    with_capacity({"a": a, "b": b | {"tpot_p50_ms": 6}})


def test_an_slo_can_be_asked_for_by_its_name() -> None:
    with pytest.raises(ConfigError, match=r"slos.*: 'a=b': allowed: a name without ="):
        with_capacity({"a=b": {"ttft_p99_ms": 5}})


@pytest.mark.parametrize(("repeats", "least"), [(2, 5), (4, 7)])
def test_a_search_may_take_the_probes_that_its_answer_needs(repeats: int, least: int) -> None:
    slos = {"chat": {"ttft_p99_ms": 5}}
    with_capacity(slos, repeats=repeats, max_probes=least)
    said = f"workloads.most.max_probes: {least - 1}: allowed: from {least} with repeats: {repeats}"
    with pytest.raises(ConfigError, match=re.escape(said)):
        with_capacity(slos, repeats=repeats, max_probes=least - 1)


def test_a_share_leaves_a_tail_that_a_probe_can_count() -> None:
    with_capacity({"a": {"goodput_share": 0.999, "ttft_ms": 5}})
    with pytest.raises(ConfigError, match=r"goodput_share: 0.9991: allowed: .* 0.999"):
        with_capacity({"a": {"goodput_share": 0.9991, "ttft_ms": 5}})
