"""The matrix: every cell once, in order, with its reason if it cannot run."""

import copy
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from snakemake_executor_plugin_submitit.site import Site, load_site
from tests.growth import MOST, growth
from tpsweep.config.load import ConfigError, load_config
from tpsweep.core.cell import Cell
from tpsweep.sweep.expand import Planned, expand

ROOT = Path(__file__).parents[3]
SITE = """
name: testbed
cluster: local
gpus:
  H100: {card: NVIDIA H100 80GB HBM3, memory_gib: 80, per_node: 8}
  A100: {card: NVIDIA A100 80GB PCIe, memory_gib: 80, per_node: 2}
  cpu: {card: CPU, per_node: 2}
"""


def model(size: str, **more: Any) -> dict[str, Any]:
    shape = f"workflow/models/llama-3.1-{size}.json"
    return {"shape": shape, "dtype": "bfloat16", "weights": "dummy", **more}


DECODE: dict[str, Any] = {
    "kind": "latency",
    "batch": [1, 4],
    "input_len": [512],
    "output_len": [128],
}
ONLINE: dict[str, Any] = {
    "kind": "serve",
    "num_prompts": [100],
    "input_len": [512],
    "output_len": [128],
    "request_rate": [4],
}
BASE: dict[str, Any] = {
    "vllm_version": "0.32.0",
    "models": {"8b": model("8b")},
    "variants": {"default": {}},
    "gpus": ["H100"],
    "tp": [1, 2],
    "workloads": {"decode": DECODE},
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    path = tmp_path_factory.mktemp("site") / "site.yaml"
    path.write_text(SITE)
    return load_site(path)


def plan(site: Site, **changes: Any) -> list[Planned]:
    return expand(load_config({**copy.deepcopy(BASE), **changes}, ROOT), site)


def cells(planned: list[Planned]) -> list[Cell]:
    return [item.cell for item in planned]


def test_order_is_that_of_the_config(site: Site) -> None:
    planned = plan(site, runs=2)
    assert [(c.engine.tp, c.engine.run, c.batch) for c in cells(planned)] == [
        (tp, run, batch) for tp in (1, 2) for run in (0, 1) for batch in (1, 4)
    ]
    assert {item.status for item in planned} == {"planned"}
    assert planned == plan(site, runs=2)


def test_an_engine_has_the_pins_and_the_variants_arguments(site: Site) -> None:
    workload = {**DECODE, "engine": {"max_num_seqs": 64}, "variants": ["eager"]}
    variants = {"default": {}, "eager": {"enforce_eager": True}}
    (first, *_) = cells(plan(site, variants=variants, workloads={"decode": workload}))
    assert first.engine.args == {
        "max_model_len": 8192,
        "max_num_seqs": 64,
        "max_num_batched_tokens": 8192,
        "gpu_memory_utilization": 0.9,
        "enforce_eager": True,
    }
    assert (first.engine.variant, first.engine.mode) == ("eager", "offline")
    assert first.engine.gpu_card == "NVIDIA H100 80GB HBM3"


def test_tp1_has_no_allreduce_and_is_planned_once(site: Site) -> None:
    planned = plan(site, allreduce_backends=["auto", "nccl"])
    assert Counter((c.engine.tp, c.engine.allreduce_backend) for c in cells(planned)) == {
        (1, "none"): 2,
        (2, "auto"): 2,
        (2, "nccl"): 2,
    }


def test_narrowing_takes_a_part_of_the_axes(site: Site) -> None:
    workloads = {
        "a": {**DECODE, "tp": [2], "runs": 1},
        "b": {**DECODE, "output_len": [64], "gpus": ["A100"]},
    }
    planned = plan(site, gpus=["H100", "A100"], runs=2, workloads=workloads)
    assert Counter((p.entry, p.cell.engine.gpu, p.cell.engine.tp) for p in planned) == {
        ("a", "H100", 2): 2,
        ("a", "A100", 2): 2,
        ("b", "A100", 1): 4,
        ("b", "A100", 2): 4,
    }


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"models": {"70b": model("70b")}, "tp": [1]},
            "weights 141.1 GB / tp 1 = 141.1 GB a GPU > 77.3 GB (80 GiB x 0.9 of H100); "
            "it fits from tp 2",
        ),
        ({"gpus": ["A100"], "tp": [4]}, "tp 4 x replicas 1 = 4 GPUs > 2 on a node of A100"),
        (
            {"gpus": ["A100"], "tp": [2], "pp": [2]},
            "tp 2 x pp 2 x replicas 1 = 4 GPUs > 2 on a node of A100",
        ),
        (
            {"gpus": ["cpu"], "tp": [1], "pp": [2]},
            "pp 2: vLLM's CPU engine ends at the first step of a pipeline",
        ),
        (
            {"gpus": ["cpu"], "tp": [2], "ep": [True]},
            "ep true: vLLM's CPU engine has no expert parallelism",
        ),
        ({"tp": [1], "ep": [True]}, "8b: ep true: the model has no experts"),
        ({"tp": [1], "dcp": [2]}, "8b: dcp 2: it does not divide tp 1"),
        (
            {"gpus": ["cpu"], "tp": [2], "dcp": [2]},
            "dcp 2: vLLM's attention on CPUs has no decode context parallelism",
        ),
        (
            {"gpus": ["cpu"], "tp": [1], "workloads": {"s": {**ONLINE, "dp": [2]}}},
            "dp 2: vLLM's CPU engine cannot exchange tokens between joined experts",
        ),
        (
            {
                "models": {"70b": model("70b")},
                "workloads": {"d": {**DECODE, "batch": [16], "input_len": [4000]}},
                "gpus": ["A100"],
                "tp": [1],
                "pp": [2],
            },
            # 40 layers of 855654400 and an embedding of 1050673152 parameters
            "weights 70.6 GB of a stage of pp 2 / tp 1 = 70.6 GB + activations 1.7 GB"
            " + KV cache of 66048 tokens 10.8 GB a GPU",
        ),
        ({"gpus": ["B200"]}, "site testbed has no B200; it has H100, A100, cpu"),
        (
            {"workloads": {"d": {**DECODE, "batch": [128], "input_len": [4000]}}, "tp": [1]},
            # 128 x 4128 tokens x 131072 bytes
            "weights 16.1 GB / tp 1 = 16.1 GB + activations 0.839 GB"
            " + KV cache of 528384 tokens 69.3 GB a GPU > 77.3 GB",
        ),
    ],
)
def test_what_cannot_fit_says_why(site: Site, changes: dict[str, Any], reason: str) -> None:
    planned = plan(site, **changes)
    assert {item.status for item in planned} == {"infeasible"}
    for item in planned:
        assert item.reason is not None
        assert item.reason.startswith(reason)


def test_what_fits_is_planned(site: Site) -> None:
    for changes in (
        {"models": {"70b": model("70b")}, "tp": [2]},
        {"models": {"70b": model("70b")}, "tp": [1], "gpus": ["cpu"]},  # memory not known
        {"gpus": ["A100"], "tp": [2]},
        {"workloads": {"d": {**DECODE, "batch": [128], "input_len": [4000]}}, "tp": [2]},
    ):
        assert {item.status for item in plan(site, **changes)} == {"planned"}


def test_an_fp8_cache_takes_half_the_room(site: Site) -> None:
    big = {"d": {**DECODE, "batch": [128], "input_len": [4000]}}
    variants = {"default": {}, "fp8": {"kv_cache_dtype": "fp8"}}
    planned = plan(site, workloads=big, tp=[1], variants=variants)
    assert [(p.cell.engine.variant, p.status) for p in planned] == [
        ("default", "infeasible"),
        ("fp8", "planned"),
    ]


def test_exclusions_carry_their_reason(site: Site) -> None:
    planned = plan(site, exclude=[{"tp": 2, "batch": 4, "reason": "known"}])
    assert [(p.status, p.reason) for p in planned] == [
        ("planned", None),
        ("planned", None),
        ("planned", None),
        ("excluded", "known"),
    ]


def test_an_exclusion_that_matches_nothing_is_a_mistake(site: Site) -> None:
    with pytest.raises(ConfigError, match=r"exclude\.0: .'batch': 3.: it matches no cell"):
        plan(site, exclude=[{"batch": 3, "reason": "typo"}])


def test_a_cell_in_two_workloads_is_a_mistake(site: Site) -> None:
    twice = {"decode": DECODE, "again": {**DECODE, "batch": [4, 8], "label": "the same"}}
    with pytest.raises(ConfigError) as caught:
        plan(site, workloads=twice)
    assert "workloads.again" in str(caught.value)
    assert "the same cell as in workloads.decode" in str(caught.value)


SERVE = {
    "kind": "serve",
    "num_prompts": [50],
    "input_len": [220],
    "output_len": [190],
    "request_rate": [4, "inf"],
    "max_concurrency": [None, 8],
    "replicas": [1, 2],
}


def test_every_workload_has_the_engine_that_it_needs(site: Site) -> None:
    requests = {"num_prompts": [50], "input_len": [8], "output_len": [8]}
    workloads = {
        "serve": SERVE,
        "offline": {"kind": "throughput", **requests},
        "torch": {**DECODE, "kind": "capture", "profiler": "torch"},
        "nsys": {**DECODE, "kind": "capture", "profiler": "nsys"},
        "auto": {**DECODE, "kind": "capture"},
    }
    planned = plan(site, workloads=workloads, tp=[2])
    status = {item.cell.workload: (item.status, item.reason) for item in planned}
    assert status == {
        "serve": ("planned", None),
        "throughput": ("planned", None),
        "capture": ("planned", None),
    }
    assert Counter((p.cell.workload, p.cell.engine.mode, p.cell.engine.gpus) for p in planned) == {
        ("serve", "server", 2): 4,
        ("serve", "server", 4): 4,
        ("throughput", "offline", 2): 1,
        ("capture", "offline", 2): 2,
        ("capture", "nsys", 2): 2,
        ("capture", "nsys-or-torch", 2): 2,
    }
    rates = {p.cell.request_rate for p in planned if p.entry == "serve"}
    assert rates == {4.0, float("inf")}
    (infinite,) = {Cell.from_json(c.to_json()).request_rate for c in cells(planned)} - {4.0, None}
    assert infinite == float("inf")


def test_what_counts_as_a_good_request_is_part_of_the_cell(site: Site) -> None:
    strict = {**SERVE, "slo": {"ttft_ms": 100.0}}
    one, other = (cells(plan(site, workloads={"s": w}, tp=[1]))[0] for w in (SERVE, strict))
    assert one.cell_id != other.cell_id


CAPACITY: dict[str, Any] = {
    "kind": "capacity",
    "input_len": [220],
    "output_len": [190],
    "replicas": [1, 2],
}


def test_a_capacity_cell_asks_for_all_slos_at_once(site: Site) -> None:
    slos = {"chat": {"ttft_p99_ms": 500}, "bulk": {"e2e_p90_ms": 9000}}
    one, two = plan(site, workloads={"most": CAPACITY}, slos=slos, tp=[2])
    assert [(p.cell.engine.mode, p.cell.engine.gpus) for p in (one, two)] == [
        ("server", 2),
        ("server", 4),
    ]
    assert (one.cell.request_rate, one.cell.num_prompts, one.cell.repeats) == (None, 1000, 2)
    assert one.cell.extra == {
        "slos": slos,
        "probe_s": 30.0,
        "probe_requests": 400,
        "max_request_rate": 1000.0,
        "max_probes": 40,
    }
    assert one.started.mode == "engine"  # in the session of the served and offline cells
    (other,) = plan(
        site,
        workloads={"most": {**CAPACITY, "replicas": [1]}},
        slos={**slos, "chat": {"ttft_p99_ms": 400}},
        tp=[2],
    )
    assert other.cell.cell_id != one.cell.cell_id
    assert Cell.from_json(one.cell.to_json()).cell_id == one.cell.cell_id


def test_a_request_file_is_known_by_its_content(site: Site, tmp_path: Path) -> None:
    entry = {
        "kind": "throughput",
        "num_prompts": [3],
        "dataset": "lengths",
        "dataset_path": str(tmp_path / "a.csv"),
    }
    (absent, *_) = plan(site, workloads={"w": entry})
    assert absent.status == "infeasible"
    assert "No such file" in str(absent.reason)
    ids = []
    for name, text in (("a.csv", "1,2\n"), ("b.csv", "1,2\n"), ("a.csv", "1,3\n")):
        (tmp_path / name).write_text(text * 3)
        path = str(tmp_path / name)
        ids.append(cells(plan(site, workloads={"w": {**entry, "dataset_path": path}}))[0].cell_id)
    assert ids[0] == ids[1] != ids[2]


def test_ten_thousand_cells_take_no_search_per_cell(site: Site) -> None:
    def grid(size: int) -> Callable[[], object]:
        batch, input_len = list(range(1, 51)), list(range(1, size // 50 + 1))
        entry = {**DECODE, "batch": batch, "input_len": input_len, "engine": {"max_num_seqs": 64}}
        exclude = [{"batch": n, "input_len": n, "reason": "diagonal"} for n in range(1, 11)]

        def work() -> None:
            planned = plan(site, workloads={"grid": entry}, runs=2, exclude=exclude)
            assert len({item.cell.cell_id for item in planned}) == len(planned) == 4 * size

        return work

    assert growth(grid, 600) < MOST


def ids(site: Site, data: dict[str, Any]) -> list[str]:
    return [cell.cell_id for cell in cells(expand(load_config(data, ROOT), site))]


def shuffled(value: Any, draw: st.DataObject) -> Any:
    """The same mappings with their keys in another order (lists stay: they order the cells)."""
    if isinstance(value, dict):
        keys = draw.draw(st.permutations(list(value)))
        return {key: shuffled(value[key], draw) for key in keys}
    return value


@given(st.data(), st.text(alphabet="abc #:", max_size=8), st.text(alphabet="xyz", max_size=8))
def test_ids_survive_key_order_comments_and_labels(
    data: st.DataObject, comment: str, label: str
) -> None:
    lab = Site.model_validate(yaml.safe_load(SITE))
    variants = {"default": {}, "more": {"enforce_eager": True, "compilation_config": {"a": 1}}}
    plain = {**copy.deepcopy(BASE), "variants": variants, "allreduce_backends": ["auto", "nccl"]}
    changed = copy.deepcopy(plain)
    changed["models"]["8b"]["label"] = label
    changed["workloads"]["decode"] |= {"label": label, "minutes": 99}
    changed |= {"engine_start_minutes": 7, "results": "elsewhere", "hf_home": "cache"}
    changed = shuffled(changed, data)
    text = f"# {comment}\n{yaml.safe_dump(changed, sort_keys=False)}# {comment}\n"
    assert sorted(ids(lab, yaml.safe_load(text))) == sorted(ids(lab, plain))


CHANGES: list[tuple[str, Any]] = [
    ("vllm_version", "0.31.0"),
    ("models/8b/dtype", "float16"),
    ("models/8b/shape", "workflow/models/llama-3.1-70b.json"),
    ("models/8b", {**model("8b"), "path": "org/name", "weights": "real"}),
    ("models/8b", {**model("8b"), "path": "org/name", "weights": "real", "revision": "b"}),
    ("variants/default", {"enforce_eager": True}),
    ("gpus", ["A100"]),
    ("tp", [4]),
    ("workloads/decode/batch", [2]),
    ("workloads/decode/input_len", [513]),
    ("workloads/decode/output_len", [129]),
    ("workloads/decode/warmups", 4),
    ("workloads/decode/repeats", 21),
    ("workloads/decode/engine", {"max_model_len": 8191}),
    ("workloads/decode/engine", {"max_num_seqs": 255}),
    ("workloads/decode/engine", {"max_num_batched_tokens": 8191}),
    ("workloads/decode/engine", {"gpu_memory_utilization": 0.91}),
]


def changed_by(*changes: tuple[str, Any]) -> dict[str, Any]:
    data = {**copy.deepcopy(BASE), "tp": [2]}
    for path, value in changes:
        *parents, last = path.split("/")
        place = data
        for key in parents:
            place = place[key]
        place[last] = copy.deepcopy(value)
    return data


def test_every_change_of_what_matters_gives_other_ids() -> None:
    lab = Site.model_validate(yaml.safe_load(SITE))
    sets = [frozenset(ids(lab, changed_by(change))) for change in CHANGES]
    sets.append(frozenset(ids(lab, changed_by())))
    sets.append(frozenset(ids(lab, changed_by(("allreduce_backends", ["nccl"])))))
    other_site = lab.model_copy(update={"name": "elsewhere"})
    sets.append(frozenset(ids(other_site, changed_by())))
    for i, one in enumerate(sets):
        for other in sets[:i]:
            assert one.isdisjoint(other)


@given(st.lists(st.sampled_from(CHANGES), min_size=2, max_size=6, unique_by=lambda c: c[0]))
def test_equal_configs_only_have_equal_ids(changes: list[tuple[str, Any]]) -> None:
    lab = Site.model_validate(yaml.safe_load(SITE))
    paths = [path for path, _ in changes]
    if any(a != b and a.startswith(f"{b}/") for a in paths for b in paths):
        return  # the later change replaces the earlier
    one = ids(lab, changed_by(*changes))
    assert set(one).isdisjoint(ids(lab, changed_by(*changes[1:])))


LOAD: dict[str, Any] = {"kind": "serve", "models": ["8b"], "num_prompts": [2], "tp": [1]}


def test_a_trace_has_its_own_rate_at_each_speed(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    line = '{{"timestamp": {}, "input_length": 8, "output_length": 4}}\n'
    path.write_text(line.format(0) + line.format(500))
    entry = {**LOAD, "dataset": "trace", "dataset_path": str(path)}
    found = [item.cell for item in plan(site, workloads={"t": {**entry, "speed": [1.0, 4.0]}})]
    assert [(cell.speed, cell.request_rate) for cell in found] == [(1.0, 2.0), (4.0, 8.0)]
    path.write_text(line.format(0) + line.format(300))
    (uneven,) = plan(site, workloads={"t": entry})
    assert uneven.cell.request_rate == 3.333  # tables and names show it
    path.write_text(line.format(0) + line.format(500))
    (plain,) = plan(site, workloads={"t": entry})
    assert plain.cell.speed == 1.0 and plain.cell.cell_id == found[0].cell_id
    with pytest.raises(ConfigError, match="num_prompts asks for 3"):
        plan(site, workloads={"t": {**entry, "num_prompts": [3]}})
    with pytest.raises(ConfigError, match="trace with kind: serve; lengths with throughput"):
        offline = {"kind": "throughput", "models": ["8b"], "num_prompts": [2], "dataset": "trace"}
        plan(site, workloads={"t": {**offline, "dataset_path": str(path)}})


def test_a_shared_prefix_needs_an_engine_of_its_own(site: Site) -> None:
    entry = {**LOAD, "request_rate": [4], "input_len": [64], "output_len": [4]}
    sharing = {**entry, "prefix_len": [16, 32], "prefix_share": [0.5]}
    plain, *shared = [
        item.cell for item in plan(site, workloads={"plain": entry, "sharing": sharing})
    ]
    assert "enable_prefix_caching" not in plain.engine.args and plain.prefix_len is None
    assert [(cell.prefix_len, cell.prefix_share) for cell in shared] == [(16, 0.5), (32, 0.5)]
    assert all(cell.engine.args["enable_prefix_caching"] for cell in shared)
    assert len({cell.engine.session for cell in (plain, *shared)}) == 2
    for changes, words in (
        ({"prefix_len": [64]}, "with every prefix_len below every input_len"),
        ({"prefix_share": [1.5]}, "prefix_share: allowed: above 0, up to 1"),
    ):
        with pytest.raises(ConfigError, match=words):
            plan(site, workloads={"sharing": {**sharing, **changes}})
