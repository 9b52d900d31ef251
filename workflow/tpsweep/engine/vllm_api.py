"""Everything that tpsweep relies on in vLLM and that may differ between versions, in one file.

Tried on 0.25.1 (CUDA) and 0.32.0 (CPU). ``RELIED_ON`` lists, for every file of vLLM that we lean
on, the words that must be in it; ``tests/vllm/test_vllm_versions.py`` reads them out of the
published wheels of 0.25.1 to 0.33. Nothing here imports vLLM at the top: planning needs none.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tpsweep.core.axes import ENGINE_AXES, RAN
from tpsweep.core.cell import BF16, FP8, FP8_CACHE, Engine
from tpsweep.core.place import Place
from tpsweep.core.workloads import ENGINE, SERVER

OLDEST, NEWEST = (0, 25), (0, 33)

RELIED_ON: Mapping[str, tuple[str, ...]] = {
    "vllm/entrypoints/llm.py": (
        "class LLM",
        "disable_log_stats",
        "def generate",
        "def enqueue",
        "def wait_for_completion",
        "def start_profile",
        "def stop_profile",
    ),
    "vllm/config/profiler.py": (
        "torch_profiler_dir:",
        "torch_profiler_with_stack:",
        "torch_profiler_dump_cuda_time_total:",
        "ignore_frontend:",
        '"cuda"',
    ),
    "vllm/v1/worker/gpu_worker.py": ("execute_context_", "_generation_"),
    "vllm/engine/arg_utils.py": (
        "tensor_parallel_size:",
        "max_model_len:",
        "max_num_seqs:",
        "max_num_batched_tokens:",
        "gpu_memory_utilization:",
        "enable_prefix_caching:",
        "disable_custom_all_reduce:",
        "enforce_eager:",
        "load_format:",
        "compilation_config:",
        "seed:",
        "nnodes: int",
        "headless: bool = False,",
    ),
    "vllm/config/quantization.py": ('"fp8_per_tensor"',),
    "vllm/entrypoints/openai/api_server.py": (
        "build_async_engine_client_from_engine_args",
        "build_app",
        "init_app_state",
    ),
    "vllm/v1/engine/async_llm.py": (
        "    async def add_request(",
        ") -> RequestOutputCollector:",
        "    async def pause_generation(",
        "        mode: PauseMode",
        "    async def resume_generation(self)",
        "    async def abort(",
        "    async def start_profile(",
        "    async def stop_profile(self)",
        "    async def get_supported_tasks(self)",
        "output_processor.process_outputs(",
    ),
    "vllm/v1/engine/output_processor.py": (
        "    async def get(self)",
        "engine_core_outputs: list[EngineCoreOutput]",
        "engine_core_timestamp: float",
    ),
    "vllm/inputs/__init__.py": ("tokens_input",),
    "vllm/utils/argparse_utils.py": ("class FlexibleArgumentParser",),
    "vllm/v1/worker/gpu_model_runner.py": (
        "Model loading took %s GiB memory and %.6f seconds",
        "Graph capturing finished in %.0f secs",
    ),
    "vllm/compilation/monitor.py": ("torch.compile took %.2f s in total",),
    "vllm/v1/metrics/stats.py": ("scheduled_ts", "first_token_ts", "last_token_ts"),
    "vllm/outputs.py": ("num_cached_tokens", "finish_reason", "metrics"),
    "vllm/sampling_params.py": ("ignore_eos", "detokenize", "max_tokens"),
    "vllm/compilation/backends.py": (
        "Compiling a graph for compile range",
        "Directly load the compiled graph(s)",
    ),
    "vllm/compilation/decorators.py": (
        "Directly load AOT compilation from path",
        "saved AOT compiled function to",
    ),
    "vllm/config/compilation.py": (
        "fuse_allreduce_rms",
        "Enabled custom fusions: %s",
        "NONE = 0",
        "STOCK_TORCH_COMPILE = 1",
        "DYNAMO_TRACE_ONCE = 2",
    ),
    "vllm/distributed/device_communicators/cuda_communicator.py": (
        "Using %s all-reduce backends (in dispatch order) for group",
        '"CUSTOM"',
        '"PYNCCL"',
        '"SYMM_MEM"',
        '"FLASHINFER"',
    ),
    "vllm/distributed/device_communicators/pynccl.py": ("vLLM is using nccl==%s",),
    "vllm/utils/system_utils.py": ("def set_process_title", "VLLM_PROCESS_NAME_PREFIX"),
    "vllm/v1/engine/llm_engine.py": (
        "self.engine_core.get_output()",
        "engine_core_timestamp=outputs.timestamp",
    ),
    "vllm/v1/engine/core_client.py": ("def call_utility(self, method: str, *args)",),
    "vllm/v1/engine/__init__.py": ("class EngineCoreOutputs", "timestamp: float"),
    "vllm/v1/engine/core.py": (
        "EngineCore",
        "def pause_scheduler(",
        '"keep"',
        "def resume_scheduler(self)",
        "set_process_title(",
        "Initializing a V1 LLM engine (v%s) with config",
        "init engine (profile, create kv cache, warmup model) took ",
    ),
    "vllm/v1/core/kv_cache_utils.py": ("KV cache size: %s tokens",),
    "vllm/v1/executor/multiproc_executor.py": (
        "set_process_title(",
        "def __init__(self, vllm_config: VllmConfig, monitor_workers: bool = True)",
        "def start_worker_monitor(self, inline=False)",
        "node_rank_within_dp",
    ),
    "vllm/config/parallel.py": (
        "    data_parallel_size: int",
        "    decode_context_parallel_size: int",
        "    enable_expert_parallel: bool",
        "nnodes: int",
        "node_rank: int",
        "master_addr: str",
        "master_port: int",
    ),
    "vllm/envs.py": (
        '"VLLM_API_KEY"',
        '"VLLM_PROCESS_NAME_PREFIX", "VLLM")',
        "VLLM_ALLREDUCE_USE_SYMM_MEM",
        "VLLM_ALLREDUCE_USE_FLASHINFER",
        "VLLM_USE_NCCL_SYMM_MEM",
        "VLLM_WORKER_MULTIPROC_METHOD",
        "VLLM_HOST_IP",
        "VLLM_NO_USAGE_STATS",
        "VLLM_CPU_OMP_THREADS_BIND",
        "VLLM_CPU_KVCACHE_SPACE",
    ),
    "vllm/benchmarks/serve.py": (
        "async def benchmark(",
        "    task_type: TaskType,",
        "    input_requests: list[SampleRequest],",
        "    extra_body: dict | None,",
        "    ready_check_timeout_sec: int",
        "async def get_request(",
        "        request_func = ASYNC_REQUEST_FUNCS[endpoint_type]",
        "for i in range(len(outputs)):",
        '"input_lens":',
        '"output_lens":',
        '"ttfts":',
        '"itls":',
        '"start_times":',
        '"errors":',
        "np.random.gamma",
    ),
    "vllm/benchmarks/lib/endpoint_request_func.py": (
        '"OPENAI_API_KEY"',
        "usage.get(",
        "    except Exception:",
        "    success: bool = False",
        "    start_time: float = 0.0",
    ),
    "vllm/benchmarks/datasets/__init__.py": ("SampleRequest", "ShareGPTDataset"),
    "vllm/tokenizers/__init__.py": ("get_tokenizer",),
    "vllm/transformers_utils/config.py": ("def get_config(",),
    "vllm/v1/metrics/loggers.py": ("vllm:prefix_cache_hits", "vllm:request_success"),
    "vllm/v1/spec_decode/metrics.py": (
        "vllm:spec_decode_num_drafts",
        "vllm:spec_decode_num_accepted_tokens",
    ),
    "vllm/benchmarks/latency.py": (
        '"--num-iters-warmup"',
        '"--num-iters"',
        '"--output-json"',
        '"--disable-detokenize"',
        '"latencies"',
    ),
}
"""File of a vLLM wheel -> words in it that this project relies on."""

ARGUMENT_PARSERS = (
    "vllm.entrypoints.openai.cli_args",  # until 0.29
    "vllm.entrypoints.launchers.cli_args",  # 0.30 to 0.32
    "vllm.entrypoints.common.cli_args",  # from 0.33 on
)
"""Modules of which one has ``make_arg_parser``, by version."""

PROCESS_TITLE = "VLLM::"
"""What the titles of an engine's processes start with (``VLLM::EngineCore``, ``VLLM::Worker``)."""

_DISPATCH = re.compile(r"Using \[(?P<names>[^\]]*)\] all-reduce backends \(in dispatch order\)")
_NCCL = re.compile(r"vLLM is using nccl==(?P<version>[\w.]+)")
_ENGINE = re.compile(r"Initializing a V1 LLM engine .*")
_CACHE = re.compile(r"KV cache size: ([\d,]+) tokens")
_FUSIONS = re.compile(r"Enabled custom fusions: (?P<names>.+?)\s*$", re.MULTILINE)
_COMPILED = "Compiling a graph for compile range"
_LOADED = ("Directly load the compiled graph(s)", "Directly load AOT compilation from path")
_SAVED = "saved AOT compiled function to"
_EAGER = re.compile(r"\benforce_eager=True\b|'mode': <CompilationMode\.NONE\b")
_UNCACHED = re.compile(r"'mode': <CompilationMode\.(?:STOCK_TORCH_COMPILE|DYNAMO_TRACE_ONCE)\b")
_BACKEND_NAMES = {
    "CUSTOM": "custom",
    "PYNCCL": "nccl",
    "NCCL_SYMM_MEM": "nccl_symm_mem",
    "SYMM_MEM": "symm_mem",
    "FLASHINFER": "flashinfer",
}


@dataclass(frozen=True)
class Settings:
    """What selects something in vLLM: engine arguments and environment variables."""

    args: dict[str, Any] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)


_NO_FUSION = {"compilation_config": {"pass_config": {"fuse_allreduce_rms": False}}}
_PLAIN = {
    "VLLM_ALLREDUCE_USE_FLASHINFER": "0",
    "VLLM_ALLREDUCE_USE_SYMM_MEM": "0",
    "VLLM_USE_NCCL_SYMM_MEM": "0",
}

ALLREDUCE: Mapping[str, Settings] = {
    # --disable-custom-all-reduce alone leaves FlashInfer and symmetric memory on: each backend
    # switches the others off by name. The same settings hold for every version in range.
    "none": Settings(),
    "auto": Settings(),
    "custom": Settings(args=_NO_FUSION, env=_PLAIN),
    "nccl": Settings(args={**_NO_FUSION, "disable_custom_all_reduce": True}, env=_PLAIN),
    "symm_mem": Settings(
        args={**_NO_FUSION, "disable_custom_all_reduce": True},
        env={**_PLAIN, "VLLM_ALLREDUCE_USE_SYMM_MEM": "1"},
    ),
    "flashinfer": Settings(env={**_PLAIN, "VLLM_ALLREDUCE_USE_FLASHINFER": "1"}),
}
"""All-reduce backend as asked -> what makes vLLM use it."""


_ONLINE_FP8 = {"quantization": "fp8_per_tensor"}
PRECISION: Mapping[str, Mapping[str, Any]] = {
    BF16: {},
    FP8: _ONLINE_FP8,
    FP8_CACHE: {**_ONLINE_FP8, "kv_cache_dtype": "fp8"},
}
"""Precision as asked -> the engine arguments for it. Plain ``fp8`` is for checkpoints alone."""


@dataclass(frozen=True)
class LogFacts:
    """What a vLLM start says of itself in its log; None where it says nothing. ``ran``: the axes of
    ``axes.RAN``."""

    allreduce_backend: str | None
    nccl_version: str | None
    fusions: str | None
    ran: Mapping[str, int | bool | None] = field(default_factory=dict)
    kv_cache_tokens: int | None = None  # of all engine cores together
    graphs: str | None = None  # "compiled" at this start | "loaded" from vLLM's cache | "none"


@dataclass(frozen=True)
class RequestTimes:
    """Timestamps of one request on the engine core's monotonic clock, seconds."""

    scheduled: float
    first_token: float
    last_token: float


def engine_env(engine: Engine, cpus: Iterable[int], place: Place | None = None) -> dict[str, str]:
    """Environment that a start of ``engine`` needs, set before vLLM is imported.

    ``cpus``: processors that this process may use; on a CPU class each rank gets one of them
    (a "card" of a CPU class is one core), without which vLLM wants a NUMA node per rank.
    ``place``: of several nodes, which this is. Raises ``ValueError`` if there are fewer processors
    than ranks here, and ``OSError`` for an address that is none.
    """
    env = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        # Where vLLM's own message queues meet: of one node they stay on loopback.
        "VLLM_HOST_IP": socket.gethostbyname(place.address) if place else "127.0.0.1",
        "HF_HUB_OFFLINE": "1",  # weights were downloaded before: compute nodes need no network
        # A cluster's web proxy must not stand between a server and its client on the same node.
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # so that CUDA's and NVML's indexes agree
        **ALLREDUCE[engine.allreduce_backend].env,
    }
    if is_cpu(engine):
        available, ranks = sorted(cpus), engine.gpus_per_node
        if len(available) < ranks:
            here = f" on each of {engine.nodes} nodes" if engine.nodes > 1 else ""
            said = f"as many processors are needed{here}, usable: {len(available)}"
            raise ValueError(f"{engine.product}: {said}")
        env["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(str(cpu) for cpu in available[:ranks])
        env["VLLM_CPU_KVCACHE_SPACE"] = "1"
        if engine.args.get("enforce_eager"):
            # vLLM's sampler would still be compiled, which asks for a C++ compiler.
            env["TORCHDYNAMO_DISABLE"] = "1"
    # The site has the last word: what it disables may be dangerous on its nodes. A backend
    # that cannot run then is refused by what the log says ran.
    return env | _on_this_node(engine.environment)


def _on_this_node(environment: Mapping[str, str]) -> dict[str, str]:
    """The site's variables as the session's runner has set them: it fills in ``$NAME``."""
    return {
        name: os.environ.get(name, os.path.expandvars(value)) if "$" in value else value
        for name, value in environment.items()
    }


def axis_arguments(engine: Engine) -> dict[str, Any]:
    """The engine arguments that axes set; one at its default is left to vLLM."""
    return {
        axis.vllm_arg: value
        for axis in ENGINE_AXES
        if axis.vllm_arg and not axis.is_default(value := getattr(engine, axis.name))
    }


def llm_arguments(engine: Engine) -> dict[str, Any]:
    """Arguments of ``vllm.LLM`` for an offline engine: the pins, the variant, the backend."""
    arguments: dict[str, Any] = {
        "model": engine.model.path,
        "dtype": engine.model.dtype,
        **axis_arguments(engine),
        **PRECISION[engine.precision],
        "enable_prefix_caching": False,  # a cached prompt has no prefill
        "disable_log_stats": False,  # or RequestOutput.metrics stays empty
        "seed": 0,
    }
    if engine.model.is_hub:
        arguments["revision"] = engine.model.revision
    if engine.model.weights == "dummy":
        arguments["load_format"] = "dummy"
    return _merge(_merge(arguments, ALLREDUCE[engine.allreduce_backend].args), engine.args)


_MEETING = ("node_rank", "master_addr", "master_port", "VLLM_HOST_IP")
"""Where the parts of one start meet."""


def without_places(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments or environment of an engine over several nodes, less what differs between two
    starts of it: a row is compared by the rest."""
    return {name: value for name, value in settings.items() if name not in _MEETING}


def node_arguments(place: Place | None) -> dict[str, Any]:
    """Engine arguments of one part of an engine over several nodes; none of one on one node.

    vLLM starts its own processes on each, and they find each other: no Ray.
    """
    if place is None:
        return {}
    return {
        "nnodes": place.nodes,
        "node_rank": place.node,
        "master_addr": place.host,
        "master_port": place.port,
        "distributed_executor_backend": "mp",
    }


def run_headless(arguments: Mapping[str, Any]) -> None:
    """Run the part of an engine on a node that is not its first, as ``vllm serve --headless`` does.

    ``arguments`` as of ``async_engine``. Returns when a rank here has died: vLLM says nothing of
    the end of the others, and goes on waiting for them.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.executor.multiproc_executor import MultiprocExecutor

    config = AsyncEngineArgs(**_as_classes(arguments)).create_engine_config(headless=True)
    executor = MultiprocExecutor(config, monitor_workers=False)
    executor.start_worker_monitor(inline=True)


def server_arguments(engine: Engine, served_name: str) -> dict[str, Any]:
    """Arguments of vLLM's API server for an engine, by their names in Python."""
    arguments = llm_arguments(engine)
    del arguments["disable_log_stats"]  # a plain flag there, and off unless given
    return {**arguments, "served_model_name": served_name}


def command_line(arguments: Mapping[str, Any]) -> list[str]:
    """Engine arguments as words of a command line; None is left out, mappings become JSON."""
    words: list[str] = []
    for name, value in arguments.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif value is not None:
            text = json.dumps(value) if isinstance(value, dict | list) else str(value)
            words.append(f"--{option}={text}")  # a value that begins with a dash stays a value
    return words


def request_times(output: Any) -> RequestTimes:
    """Timestamps of a finished ``vllm.RequestOutput``.

    Raises ``ValueError`` if the engine kept none (``disable_log_stats`` was on).
    """
    metrics = output.metrics
    if metrics is None or not metrics.first_token_ts:
        raise ValueError("vLLM gave no request timestamps (disable_log_stats must be False)")
    return RequestTimes(metrics.scheduled_ts, metrics.first_token_ts, metrics.last_token_ts)


def can_hold_requests(llm: Any) -> bool:
    """Whether the engine's scheduler can be paused while requests are queued.

    Not done with pipeline parallelism: a held batch would be one group, and idle each stage half of
    the time; it also hung once on 0.25.1, for a reason that its code does not tell
    (docs/measuring.md). Nor with data parallelism, where the engines must agree on a pause.
    """
    return is_one_engine(llm.llm_engine.vllm_config) and hasattr(
        llm.llm_engine.engine_core, "call_utility"
    )


def is_one_engine(config: Any) -> bool:
    """Whether a ``VllmConfig`` is of one engine in one stage: see ``can_hold_requests``."""
    parallel = config.parallel_config
    return bool(parallel.pipeline_parallel_size == parallel.data_parallel_size == 1)


@contextlib.contextmanager
def requests_held(llm: Any) -> Iterator[None]:
    """Requests that are queued inside are scheduled together, at the end.

    Queueing and resuming reach the engine core in this order, over one socket.
    """
    core = llm.llm_engine.engine_core
    core.call_utility("pause_scheduler", "keep", False)
    try:
        yield
    finally:
        core.call_utility("resume_scheduler")


def record_outputs(llm: Any, at: Callable[[float], None]) -> None:
    """Call ``at`` with the engine core's time of every output that holds tokens, from now on.

    One output is one step of the scheduler. Its time is the one that becomes a request's
    ``first_token_ts`` and ``last_token_ts``: taken in the engine core, seconds of its monotonic
    clock. The output has it anyway, nothing more is measured or sent.
    """
    core = llm.llm_engine.engine_core
    get_output = core.get_output

    def get_and_record() -> Any:
        outputs = get_output()
        if outputs.outputs:
            at(outputs.timestamp)
        return outputs

    core.get_output = get_and_record


def import_engine(mode: str) -> None:
    """Do the slow part of what an engine of this mode needs in this process."""
    if mode == SERVER:
        return  # the server is a process of its own
    from vllm import LLM  # noqa: F401

    if mode == ENGINE:
        import vllm.entrypoints.openai.api_server
        import vllm.v1.engine.async_llm  # noqa: F401


def async_engine(arguments: Mapping[str, Any]) -> Any:
    """An async context manager: an engine (``AsyncLLM``) that takes calls and can serve HTTP.

    ``arguments`` are those of ``vllm.LLM``. Raises ``ImportError`` where vLLM has no such engine,
    and whatever vLLM raises for arguments that it refuses.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.openai.api_server import build_async_engine_client_from_engine_args

    return build_async_engine_client_from_engine_args(AsyncEngineArgs(**_as_classes(arguments)))


def _as_classes(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What ``vllm.LLM`` makes of its arguments before it hands them on."""
    from vllm.config import CompilationConfig, ProfilerConfig, StructuredOutputsConfig

    known = dict(arguments)
    classes = {
        "profiler_config": ProfilerConfig,
        "structured_outputs_config": StructuredOutputsConfig,
    }
    for name, class_ in classes.items():
        if isinstance(known.get(name), dict):
            known[name] = class_(**known[name])
    if isinstance(known.get("compilation_config"), int):
        known["compilation_config"] = CompilationConfig(mode=known["compilation_config"])
    return known


async def http_server(engine: Any, model: str, served_name: str) -> Any:
    """vLLM's own API server around an engine that runs already: a ``uvicorn.Server``.

    It wants the key that is in the environment (``VLLM_API_KEY``), as vLLM's own program does.
    """
    import uvicorn
    from vllm import envs
    from vllm.entrypoints.openai.api_server import build_app, init_app_state
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = _make_arg_parser()(FlexibleArgumentParser())
    words = ["--model", model, "--served-model-name", served_name, "--uvicorn-log-level", "warning"]
    args = parser.parse_args(words)
    tasks = await engine.get_supported_tasks()
    app = build_app(args, tasks)
    await init_app_state(engine, app.state, args, tasks)
    config = uvicorn.Config(
        app, log_level="warning", timeout_keep_alive=envs.VLLM_HTTP_TIMEOUT_KEEP_ALIVE
    )
    config.h11_max_incomplete_event_size = args.h11_max_incomplete_event_size
    server = uvicorn.Server(config)
    app.state.server = server  # vLLM's handlers end it when the engine has died
    return server


def _make_arg_parser() -> Callable[[Any], Any]:
    for name in ARGUMENT_PARSERS:
        with contextlib.suppress(ModuleNotFoundError):
            found: Callable[[Any], Any] = importlib.import_module(name).make_arg_parser
            return found
    raise ImportError(f"make_arg_parser is in none of {', '.join(ARGUMENT_PARSERS)}")


async def queue_requests(
    engine: Any, prompts: Iterable[list[int]], sampling: Iterable[Any], ids: Iterable[str]
) -> list[Any]:
    """Hand requests to an ``async_engine`` one by one; returns what ``await_request`` takes.

    All or none: if vLLM refuses one (``ValueError``), those before it are aborted.
    """
    from vllm.inputs import tokens_input

    queued: list[Any] = []
    names: list[str] = []
    try:
        for prompt, params, name in zip(prompts, sampling, ids, strict=False):
            names.append(name)
            ready = tokens_input(prompt_token_ids=prompt)
            queued.append(await engine.add_request(name, ready, params))
    except ValueError:
        await engine.abort(names)
        raise
    return queued


async def await_request(queued: Any) -> Any:
    """The ``vllm.RequestOutput`` of a request that was queued to give its final output only."""
    output = await queued.get()
    while not output.finished:
        output = await queued.get()
    return output


@contextlib.asynccontextmanager
async def held(engine: Any) -> AsyncIterator[None]:
    """As ``requests_held``, of an ``async_engine``."""
    await engine.pause_generation(mode="keep", clear_cache=False)
    try:
        yield
    finally:
        await engine.resume_generation()


def record_async_outputs(engine: Any, at: Callable[[float], None]) -> None:
    """As ``record_outputs``, of an ``async_engine``; a large step may be told several times."""
    processor = engine.output_processor
    process = processor.process_outputs

    def process_and_record(
        outputs: Any, timestamp: float | None = None, *more: Any, **named: Any
    ) -> Any:
        if outputs and timestamp is not None:
            at(timestamp)
        return process(outputs, timestamp, *more, **named)

    processor.process_outputs = process_and_record


def log_facts(text: str, tp: int) -> LogFacts:
    """Read a start's log: which all-reduce runs first, which NCCL, which fusions, whose graphs.

    A fused all-reduce + RMSNorm is FlashInfer's, whatever the dispatch order says: with it the
    dispatched backend runs only above the fusion's size limit.
    """
    dispatch, nccl, fusions = _DISPATCH.search(text), _NCCL.search(text), _FUSIONS.search(text)
    fused = fusions["names"] if fusions else None
    backend = None
    if tp == 1:
        backend = "none"
    elif fused and "allreduce_rms" in fused:
        backend = "flashinfer"
    elif dispatch:
        first = dispatch["names"].split(",")[0].strip(" '\"")
        backend = _BACKEND_NAMES.get(first, first.lower())
    nccl_version = nccl["version"] if nccl else None
    caches = [int(size.replace(",", "")) for size in _CACHE.findall(text)]
    return LogFacts(
        backend, nccl_version, fused, ran_in_log(text), sum(caches) or None, _graphs(text)
    )


def ran_of(config: Any) -> dict[str, int | bool | None]:
    """The axes of ``axes.RAN`` as a ``VllmConfig`` has them; None for one that it does not have."""
    found = {axis.name: getattr(config.parallel_config, axis.vllm_arg or "", None) for axis in RAN}
    types = {axis.name: axis.type for axis in RAN}
    return {name: None if size is None else types[name](size) for name, size in found.items()}


def ran_in_log(text: str) -> dict[str, int | bool | None]:
    """The same by the line with which the first engine core begins. Cores of a dense model beside
    each other are on their own: each says that data parallelism is 1."""
    line = _ENGINE.search(text)
    found = {
        axis.name: line and re.search(rf"\b{axis.vllm_arg}=(\d+|True|False)\b", line[0])
        for axis in RAN
    }
    return {
        name: None if match is None else match[1] == "True" if match[1].isalpha() else int(match[1])
        for name, match in found.items()
    }


def _graphs(text: str) -> str | None:
    """Whose compiled graphs a start runs, by its log.

    A start that loads a whole function (AOT) may say nothing of its graphs; one that only traces
    the code again says that it loads them, and then that it saves the function. Without vLLM's own
    compilation (on the CPU) nothing is said but the mode, and saved functions.
    """
    if _COMPILED in text:
        return "compiled"
    if any(words in text for words in _LOADED):
        return "loaded"
    if _SAVED in text:
        return "compiled"
    if _EAGER.search(text):
        return "none"
    return "compiled" if _UNCACHED.search(text) else None


def is_cpu(engine: Engine) -> bool:
    """Whether the engine's node class has no GPU: its card is the word CPU."""
    return engine.gpu_card == "CPU"


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` on top of ``base``; nested mappings (compilation_config) are merged."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = _merge(old, value) if both else value  # type: ignore[arg-type]
    return merged
