"""What is asked of vLLM, and what its log says."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.unit.cells import engine, model
from tpsweep.core.place import Place
from tpsweep.engine import vllm_api

# Lines as vLLM 0.25.1 wrote them on two H200s (prefixes shortened).
LOG = """\
INFO [pynccl.py:113] vLLM is using nccl==2.28.9
INFO [cuda_communicator.py:264] Using ['CUSTOM', 'PYNCCL'] all-reduce backends (in dispatch \
order) for group 'tp:0' out of potential backends: ['FLASHINFER', 'CUSTOM', 'SYMM_MEM', 'PYNCCL'].
"""
FUSED = "INFO [compilation.py:312] Enabled custom fusions: norm_quant, allreduce_rms\n"


def test_the_log_says_which_all_reduce_runs() -> None:
    facts = vllm_api.log_facts(LOG, tp=2)
    assert (facts.allreduce_backend, facts.nccl_version) == ("custom", "2.28.9")
    assert vllm_api.log_facts(LOG.replace("'CUSTOM', 'P", "'P"), tp=2).allreduce_backend == "nccl"
    assert vllm_api.log_facts("", tp=2).allreduce_backend is None
    assert vllm_api.log_facts(LOG, tp=1).allreduce_backend == "none"


def test_the_log_says_how_many_tokens_the_caches_hold() -> None:
    """As 0.32.0 wrote it, a line of each engine core, and as 0.25.1 did."""
    new = "(EngineCore_DP{}) INFO CPU KV cache size: 2,097,152 tokens, Maximum concurrency for 512"
    old = "INFO [kv_cache_utils.py:1316] GPU KV cache size: 834,128 tokens\n"
    said = (old, "\n".join([new.format(0), new.format(1)]), LOG)
    found = [vllm_api.log_facts(text, tp=1).kv_cache_tokens for text in said]
    assert found == [834_128, 2 * 2_097_152, None]


def test_a_fused_all_reduce_is_flashinfers() -> None:
    facts = vllm_api.log_facts(LOG + FUSED, tp=2)
    assert (facts.allreduce_backend, facts.fusions) == ("flashinfer", "norm_quant, allreduce_rms")


def test_the_log_says_whether_graphs_were_compiled_or_loaded() -> None:
    loaded = "INFO [backends.py:292] Directly load the compiled graph(s) for compile range (1, 9)\n"
    compiled = "INFO [backends.py:393] Compiling a graph for compile range (1, 9) takes 7.79 s\n"
    said = [vllm_api.log_facts(text, tp=1).graphs for text in (compiled, loaded, LOG)]
    assert said == ["compiled", "loaded", None]
    assert vllm_api.log_facts(loaded + compiled, tp=1).graphs == "compiled", "a part of them"


@pytest.mark.parametrize(
    ("lines", "graphs"),
    [
        (["CONFIG DYNAMO_TRACE_ONCE: 2", "saved AOT compiled function to /c/model"], "compiled"),
        (["CONFIG DYNAMO_TRACE_ONCE: 2", "Directly load AOT compilation from path /c"], "loaded"),
        (["CONFIG VLLM_COMPILE: 3", "Directly load AOT compilation from path /c/model"], "loaded"),
        # Traced again, as code has changed, around graphs that were in the cache.
        (
            [
                "CONFIG VLLM_COMPILE: 3",
                "Directly load the compiled graph(s) for compile range (1, 9) from the cache",
                "saved AOT compiled function to /c/model",
            ],
            "loaded",
        ),
        (["CONFIG DYNAMO_TRACE_ONCE: 2"], "compiled"),
        (["CONFIG STOCK_TORCH_COMPILE: 1"], "compiled"),
        (["CONFIG NONE: 0"], "none"),
        (["enforce_eager=True, compilation_config={'mode': <CompilationMode.NONE: 0>}"], "none"),
        (["enforce_eager=False, kv_cache_dtype=auto"], None),
        (["CONFIG VLLM_COMPILE: 3"], None),
    ],
)
def test_every_way_to_compiled_graphs(lines: list[str], graphs: str | None) -> None:
    config = "Initializing a V1 LLM engine, compilation_config={'mode': <CompilationMode."
    text = "\n".join(line.replace("CONFIG ", config) for line in lines)
    assert vllm_api.log_facts(text, tp=1).graphs == graphs


@pytest.mark.parametrize("backend", ["custom", "nccl", "symm_mem"])
def test_a_backend_switches_the_others_off(backend: str) -> None:
    asked = engine(allreduce_backend=backend)
    arguments = vllm_api.llm_arguments(asked)
    environment = vllm_api.engine_env(asked, cpus={0, 1})
    assert arguments["compilation_config"]["pass_config"]["fuse_allreduce_rms"] is False
    assert environment["VLLM_ALLREDUCE_USE_FLASHINFER"] == "0"
    assert environment["VLLM_ALLREDUCE_USE_SYMM_MEM"] == ("1" if backend == "symm_mem" else "0")
    assert arguments.get("disable_custom_all_reduce", False) is (backend != "custom")


def test_a_variant_is_merged_into_the_backends_arguments() -> None:
    variant = {"compilation_config": {"level": 1, "pass_config": {"fuse_norm_quant": True}}}
    arguments = vllm_api.llm_arguments(engine(allreduce_backend="nccl", args=variant))
    assert arguments["compilation_config"] == {
        "level": 1,
        "pass_config": {"fuse_norm_quant": True, "fuse_allreduce_rms": False},
    }
    assert vllm_api.ALLREDUCE["nccl"].args["compilation_config"] == {
        "pass_config": {"fuse_allreduce_rms": False}
    }


def test_what_every_engine_is_started_with() -> None:
    arguments = vllm_api.llm_arguments(engine(model=model(path="a b", weights="real")))
    assert arguments["model"] == "a b"
    assert arguments["enable_prefix_caching"] is False
    assert arguments["disable_log_stats"] is False
    assert "load_format" not in arguments
    assert "revision" not in arguments
    hub = vllm_api.llm_arguments(engine(model=model(is_hub=True, revision="abc")))
    assert (hub["revision"], hub["load_format"]) == ("abc", "dummy")


def test_ranks_on_a_cpu_get_a_processor_each() -> None:
    assert vllm_api.engine_env(engine(), {4, 2, 9})["VLLM_CPU_OMP_THREADS_BIND"] == "2|4"
    assert "VLLM_CPU_OMP_THREADS_BIND" not in vllm_api.engine_env(engine(gpu_card="H200"), {1})
    with pytest.raises(ValueError, match="tp 2 x replicas 1"):
        vllm_api.engine_env(engine(), {0})


def test_a_servers_arguments_are_words_of_a_command_line() -> None:
    arguments = vllm_api.server_arguments(engine(replicas=2, args={"enforce_eager": True}), "name")
    assert arguments["data_parallel_size"] == 2
    words = vllm_api.command_line(arguments | {"a_map": {"x": [1]}, "odd": "--x $(y)", "no": None})
    assert "--enforce-eager" in words
    assert "--no-enable-prefix-caching" in words
    assert "--tensor-parallel-size=2" in words
    assert words[-2:] == ['--a-map={"x": [1]}', "--odd=--x $(y)"]


ALONE = {"tp": 2, "pp": 1, "ep": None, "dcp": 1, "dp": 1}


def test_the_layout_that_runs_is_read_from_the_log() -> None:
    said = "INFO core.py:1 Initializing a V1 LLM engine (v0.25.1) with config: model='m', "
    said += "load_format=dummy, tensor_parallel_size=2, pipeline_parallel_size=1, "
    said += "data_parallel_size=1, decode_context_parallel_size=1, dcp_comm_backend=ag_rs\n"
    assert vllm_api.log_facts(said, 2).ran == ALONE
    assert vllm_api.log_facts("nothing", 2).ran == dict.fromkeys(ALONE)
    # Engines with joined experts; arguments on other lines are of something else.
    two = said.replace("data_parallel_size=1", "data_parallel_size=2")
    assert vllm_api.log_facts(two, 2).ran == {**ALONE, "dp": 2}
    before = "Namespace(tensor_parallel_size=8, decode_context_parallel_size=4)\n"
    assert vllm_api.log_facts(before + said, 2).ran == ALONE


def test_the_layout_that_runs_is_in_the_engines_own_configuration() -> None:
    parallel = SimpleNamespace(
        tensor_parallel_size=4,
        pipeline_parallel_size=2,
        enable_expert_parallel=True,
        decode_context_parallel_size=2,
        data_parallel_size=1,
    )
    config = SimpleNamespace(parallel_config=parallel)
    assert vllm_api.ran_of(config) == {"tp": 4, "pp": 2, "ep": True, "dcp": 2, "dp": 1}
    del parallel.decode_context_parallel_size
    assert vllm_api.ran_of(config)["dcp"] is None


def test_each_node_starts_its_part_of_an_engine() -> None:
    said = {"SESSION_NODE": "1", "SESSION_NODES": "2", "SESSION_HOST": "n1", "SESSION_PORT": "29"}
    place = Place.of({**said, "SESSION_ADDRESS": "127.0.0.2"})
    assert place == Place(1, 2, "n1", 29, "127.0.0.2")
    assert place is not None and not place.is_first
    assert vllm_api.node_arguments(place) == {
        "nnodes": 2,
        "node_rank": 1,
        "master_addr": "n1",
        "master_port": 29,
        "distributed_executor_backend": "mp",
    }
    assert vllm_api.without_places({"tp": 4, **vllm_api.node_arguments(place)}) == {
        "tp": 4,
        "nnodes": 2,
        "distributed_executor_backend": "mp",
    }
    spanning = engine(tp=4, nodes=2)
    environment = vllm_api.engine_env(spanning, {3, 5}, place)
    assert environment["VLLM_HOST_IP"] == "127.0.0.2"
    assert environment["VLLM_CPU_OMP_THREADS_BIND"] == "3|5"
    with pytest.raises(ValueError, match="needed on each of 2 nodes, usable: 1"):
        vllm_api.engine_env(spanning, {3}, place)


def test_on_one_node_nothing_is_added() -> None:
    assert Place.of({"SESSION_ID": "x"}) is None
    assert vllm_api.node_arguments(None) == {}
    assert vllm_api.engine_env(engine(), {0, 1})["VLLM_HOST_IP"] == "127.0.0.1"
