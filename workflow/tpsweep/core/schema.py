"""The one schema of every measured row: name, type and meaning of each column.

Units are in the names (``_ms``, ``_us``, ``_s``, ``_tok_s``, ``_gb``, ``_w``, ``_j``). A column
that does not apply to a workload, or could not be known, is null; ``invalid_reasons`` or a
``*_note`` column says why where it matters.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from tpsweep.core import slo
from tpsweep.core.axes import AXES, RAN

TEXT, INT, FLOAT, BOOL = pa.string(), pa.int64(), pa.float64(), pa.bool_()
FLOATS, TEXTS, INTS, BOOLS = (pa.list_(kind) for kind in (FLOAT, TEXT, INT, BOOL))


@dataclass(frozen=True)
class Column:
    """One column: its Arrow type and what it holds (unit and shape included).

    ``default``: what a file that is older than the column means by not having it. ``optional``: a
    table in which no line has it goes without the column.
    """

    name: str
    type: pa.DataType
    doc: str
    default: Any = field(default=None, compare=False)
    optional: bool = field(default=False, compare=False)


_ARROW = {str: TEXT, int: INT, float: FLOAT, bool: BOOL}
IDENTITY = (
    Column("cell_id", TEXT, "hash of the cell's resolved identity, 12 hex digits"),
    *(Column(axis.name, _ARROW[axis.type], axis.doc, axis.default) for axis in AXES),
)

SAMPLES = (
    Column("e2e_ms_samples", FLOATS, "wall time of each repeat's generate(); serve: per request"),
    Column("prefill_ms_samples", FLOATS, "per repeat: max first token - min scheduled"),
    Column(
        "tpot_ms_samples",
        FLOATS,
        "(max last - max first token) / (N-1), from method 2 on of undisturbed steps; serve: per "
        "request",
    ),
    Column("e2e_out1_ms_samples", FLOATS, "wall time of each repeat with one output token"),
    Column("tpot_plain_ms_samples", FLOATS, "latency: as tpot_ms_samples, disturbances included"),
    Column(
        "step_ms_samples",
        FLOATS,
        "latency: engine core's time of each decode step; repeats x (N-1), repeat by repeat",
    ),
    Column("stalls_samples", INTS, "latency, per repeat: steps that the host held up"),
    Column(
        "scheduled_instants_samples",
        INTS,
        "static batches, per repeat: scheduler steps in which requests began; 1: an exact one",
    ),
    Column("ttft_ms_samples", FLOATS, "serve, per request: time to first token"),
    Column("request_s_samples", FLOATS, "throughput and serve, per repeat: requests/s"),
    Column("output_tok_s_samples", FLOATS, "throughput and serve, per repeat: output tokens/s"),
    Column("ttft_p50_ms_samples", FLOATS, "serve, per seed: median TTFT"),
    Column("itl_p50_ms_samples", FLOATS, "serve, per seed: median ITL"),
    Column("steady_share_samples", FLOATS, "serve, per seed: see steady_share"),
)

PERCENTILES = slo.PERCENTILES
SERVE_METRICS = (
    ("ttft", "time to first token", "requests"),
    ("tpot", "time per output token after the first", "requests"),
    ("itl", "inter-token latency", "tokens"),
    ("e2e", "end-to-end latency", "requests"),
)
"""Percentiles that would rest on fewer than 10 samples are null."""

_WITHIN = "95 % interval of the median within this start; null under 6 repeats"
FIGURES = (
    Column("e2e_ms", FLOAT, "median of e2e_ms_samples"),
    Column("prefill_ms", FLOAT, "median of prefill_ms_samples"),
    Column("prefill_ms_lo", FLOAT, _WITHIN),
    Column("prefill_ms_hi", FLOAT, _WITHIN),
    Column("tpot_ms", FLOAT, "decode time per output token: median of tpot_ms_samples"),
    Column("tpot_ms_lo", FLOAT, _WITHIN),
    Column("tpot_ms_hi", FLOAT, _WITHIN),
    Column("tpot_plain_ms", FLOAT, "latency: median of tpot_plain_ms_samples"),
    Column("stalls", INT, "latency: steps that the host held up, of all repeats; see measuring"),
    Column("stall_ms", FLOAT, "latency: what they took above the usual, together"),
    Column("recovery_steps", INT, "latency: slow first steps after the prefill; null: no end seen"),
    Column("tpot_drift_pct", FLOAT, "latency: change from the first to the last repeat; 5 or more"),
    Column("unsteady", BOOL, "latency: stalls that cost over 1 %, a drift, or an endless recovery"),
    Column("steps_note", TEXT, "latency: the stalls by name, the recovery, the drift"),
    Column("tpot_diff_ms", FLOAT, "cross-check: (median L(N) - median L(1)) / (N-1)"),
    Column("output_tok_s", FLOAT, "output tokens/s, prefill included; median of the repeats"),
    Column("output_tok_s_lo", FLOAT, "throughput: as tpot_ms_lo; serve: lowest seed"),
    Column("output_tok_s_hi", FLOAT, "throughput: as tpot_ms_hi; serve: highest seed"),
    Column("output_tok_s_per_gpu", FLOAT, "output_tok_s / gpus"),
    Column("total_tok_s", FLOAT, "throughput and serve: input and output tokens/s, median"),
    Column("request_s", FLOAT, "requests/s: median of the repeats; batch / e2e_ms for latency"),
    Column("request_s_lo", FLOAT, "as output_tok_s_lo"),
    Column("request_s_hi", FLOAT, "as output_tok_s_hi"),
    *(
        Column(f"{name}_p{p}_ms", FLOAT, f"serve: {what}, percentile {p} of all seeds' {of}")
        for name, what, of in SERVE_METRICS
        for p in PERCENTILES
    ),
    Column(
        "acceptance_length",
        FLOAT,
        "speculative decoding: tokens per sequence and step with a draft, the model's own token "
        "included, over the whole cell; null if nothing was drafted",
    ),
    Column("tokens_per_chunk", FLOAT, "serve: above 1, ITL is per streamed chunk, not per token"),
    Column("ttft_p50_ms_lo", FLOAT, "lowest seed's median"),
    Column("ttft_p50_ms_hi", FLOAT, "highest seed's median"),
    Column("itl_p50_ms_lo", FLOAT, "lowest seed's median"),
    Column("itl_p50_ms_hi", FLOAT, "highest seed's median"),
    Column("goodput_request_s", FLOAT, "requests/s within every limit of the config's slo"),
    Column(
        "goodput_share",
        FLOAT,
        "share of requests within them, median of seeds; null without slo",
    ),
    Column(
        "prefix_hit_share",
        FLOAT,
        "serve with a shared prefix: of the prompt tokens, those found in the prefix cache",
    ),
    Column(
        "steady_share",
        FLOAT,
        "share of the time from first completion to last send; median of seeds",
    ),
    Column(
        "steady_request_s",
        FLOAT,
        "serve: requests that ended per second of that time; request_s has the drain in it",
    ),
    Column("steady_output_tok_s", FLOAT, "serve: output tokens per second of that time"),
    Column(
        "saturated",
        TEXT,
        "more arrived than was served: yes, no or not shown; null: closed loop, older rows",
    ),
    Column(
        "latency_growth", FLOAT, "serve: s per s of arrivals, of a request's time; yes: of TTFT"
    ),
    Column("latency_growth_lo", FLOAT, "99 % interval over blocks of all seeds: see measuring"),
    Column("latency_growth_hi", FLOAT, "99 % interval over blocks of all seeds: see measuring"),
    Column(
        "client_cpu_share",
        FLOAT,
        "serve: CPU seconds per second; near 1 the client was the bottleneck",
    ),
    Column("max_in_flight", INT, "maximum requests sent and not finished at a time"),
    Column(
        "energy_j",
        FLOAT,
        "energy of all GPUs over energy_repeats (NVML counter); null if they took under 5 s",
    ),
    Column("energy_j_per_tok", FLOAT, "energy_j / output tokens of energy_repeats"),
    Column("energy_repeats", INT, "repeats, and those that went on until 5 s for the energy alone"),
    Column("decode_floor_ms", FLOAT, "weight bytes read per step / tp / datasheet bandwidth"),
    Column("decode_floor_kv_ms", FLOAT, "the same plus the KV cache read at mid-decode"),
    Column("decode_floor_ratio", FLOAT, "tpot_ms / decode_floor_ms; below 1 is invalid"),
    Column("decode_floor_kv_ratio", FLOAT, "tpot_ms / decode_floor_kv_ms"),
    Column("prefill_floor_ms", FLOAT, "2 x parameters x tokens / tp / peak FLOP/s"),
    Column("prefill_floor_ratio", FLOAT, "prefill_ms / prefill_floor_ms"),
    Column("floor_note", TEXT, "reason why the floors are null"),
    Column("prefill_chunked", BOOL, "batch x input_len exceeds max_num_batched_tokens"),
    Column("batch_held", BOOL, "static batches: the scheduler waited until all was queued"),
)

CAPACITY = (
    Column("slo_names", TEXTS, "the config's slos; one element of the following for each"),
    Column("capacity_request_s", FLOATS, "highest confirmed requests/s; null: none is"),
    Column("capacity_upper_request_s", FLOATS, "lowest requests/s that fails; null: none does"),
    Column(
        "capacity_verdicts",
        TEXTS,
        "bracket, nothing passes, nothing fails, not monotonic or unfinished",
    ),
    Column("capacity_limits", TEXTS, "limit that failed at the upper rate, or saturated"),
    Column(
        "capacity_notes", TEXTS, "a cliff, rates out of order, or that the client was the limit"
    ),
    Column("capacity_output_tok_s", FLOATS, "output tokens/s at the capacity; mean of its seeds"),
    Column("capacity_ttft_p50_ms", FLOATS, "median TTFT there"),
    Column("capacity_ttft_p99_ms", FLOATS, "p99 of TTFT there; null under 1,000 requests"),
    Column("capacity_tpot_p50_ms", FLOATS, "median TPOT there"),
    Column("capacity_tpot_p99_ms", FLOATS, "p99 of TPOT there; null under 1,000 requests"),
    Column("probe_request_s", FLOATS, "requests/s offered; one element per probe, in their order"),
    Column("probe_seeds", INTS, "seed of its arrivals and of the order of its requests"),
    Column("probe_purposes", TEXTS, "search, check (a rate tried again, or a lower one), confirm"),
    Column("probe_verdicts", TEXTS, "by SLO: passes, fails (limits), or not known"),
    Column("probe_counts", TEXTS, "JSON: by SLO and limit, requests (ITL: gaps) within it, of all"),
    Column("probe_stopped", BOOLS, "ended early, as no SLO of interest could be kept any more"),
    Column("probe_requests", INTS, "judged requests that ended"),
    Column("probe_duration_s", FLOATS, "from first send to last answer, warm-up included"),
    Column("probe_ttft_p50_ms", FLOATS, "of the judged requests; null under 20"),
    Column("probe_ttft_p99_ms", FLOATS, "null under 1,000"),
    Column("probe_tpot_p50_ms", FLOATS, "as TTFT"),
    Column("probe_tpot_p99_ms", FLOATS, "as TTFT"),
    Column("probe_sent_request_s", FLOATS, "requests/s that the client sent"),
    Column("probe_served_request_s", FLOATS, "requests that ended per second of the judged time"),
    Column("probe_output_tok_s", FLOATS, "output tokens per second of the judged time"),
    Column("probe_queue", FLOATS, "mean requests in flight in the judged time"),
    Column("probe_client_cpu_share", FLOATS, "CPU seconds of the client per second"),
    Column("probe_engine_id", TEXTS, "engine start; a resumed search has several"),
)
"""Of a ``capacity`` cell: the answer for each SLO, and every probe of the search."""

GPU_STATE = (
    Column("gpu_names", TEXTS, "per GPU of the group, from NVML"),
    Column("gpu_uuids", TEXTS, "per GPU of the group"),
    Column("node_gpu_uuids", TEXTS, "of every GPU of the node that the driver shows"),
    Column("gpu_utilisation_pct", FLOATS, "per GPU: highest utilization during the cell, %"),
    Column("gpu_memory_used_gb", FLOATS, "per GPU: highest memory used during the cell, 1e9 B"),
    Column("gpu_power_w", FLOATS, "per GPU: mean power during the measured repeats"),
    Column("gpu_power_limit_w", FLOATS, "per GPU: enforced power limit"),
    Column("gpu_sm_clock_mhz", FLOATS, "per GPU: median SM clock while measuring"),
    Column("gpu_sm_clock_min_mhz", FLOATS, "per GPU: lowest SM clock while measuring"),
    Column("gpu_sm_clock_prefill_mhz", FLOATS, "latency, per GPU: median SM clock in prefill"),
    Column("gpu_sm_clock_decode_mhz", FLOATS, "latency, per GPU: median SM clock in decode"),
    Column("gpu_power_prefill_w", FLOATS, "latency, per GPU: mean power in prefill"),
    Column("gpu_power_decode_w", FLOATS, "latency, per GPU: mean power in decode"),
    Column("gpu_phase_note", TEXT, "latency: why columns of a phase are null"),
    Column("gpu_mem_clock_mhz", FLOATS, "per GPU: median memory clock while measuring"),
    Column("gpu_temperature_c", FLOATS, "per GPU: highest temperature during the cell"),
    Column("gpu_nvlink_tx_gb_s", FLOATS, "mean NVLink GB/s sent over the measured repeats (NVML)"),
    Column("gpu_nvlink_rx_gb_s", FLOATS, "the same received"),
    Column("nvlink_share", FLOAT, "largest of both over the peak of one direction of gpu_link"),
    Column("gpu_link", TEXT, "weakest link inside the group, from `nvidia-smi topo -m`"),
    Column("gpu_note", TEXT, "why GPU columns are null, or of some of the GPUs only"),
    Column("nodes", INT, "nodes that hold the GPUs, in equal parts; null: 1"),
    Column("node_list", TEXT, "their names, as Slurm writes them; null on one node"),
    Column("network", TEXT, "what joins them, as the first shows it; null on one node"),
)

START_PHASES = (
    Column("start_imports_s", FLOAT, "of engine_start_s: until vLLM was imported"),
    Column("start_processes_s", FLOAT, "vLLM's processes, their imports and links; all the rest"),
    Column("start_weights_s", FLOAT, "loading weights; null: vLLM's log does not tell"),
    Column("start_compile_s", FLOAT, "torch.compile, or loading what it had kept (graphs)"),
    Column("start_graphs_s", FLOAT, "capturing CUDA graphs"),
    Column("start_kv_s", FLOAT, "memory profile, KV cache, warm-up"),
    Column("start_http_s", FLOAT, "server and load generator, once the engine ran"),
)
"""Parts of an engine start: they sum up to it."""

PROVENANCE = (
    Column("method", INT, "version of how this workload is measured; null: 1"),
    Column("vllm_version_ran", TEXT, "vLLM that measured"),
    Column("tpsweep_version", TEXT, "this program"),
    Column("torch_version", TEXT, "torch that measured"),
    Column("cuda_version", TEXT, "CUDA that torch was built for; null on CPU"),
    Column("driver_version", TEXT, "NVIDIA driver; null on CPU"),
    Column("nccl_version", TEXT, "from vLLM's log; null where there is none"),
    Column("allreduce_backend_ran", TEXT, "first in the dispatch order of vLLM's log"),
    Column("fusions_enabled", TEXT, "enabled fusions, from vLLM's log"),
    Column(
        "graphs",
        TEXT,
        "by vLLM's log: compiled at this engine start, loaded from its cache, or none (eager)",
    ),
    Column("engine_args", TEXT, "every engine argument given, as JSON"),
    Column("engine_env", TEXT, "environment set for the engine, as JSON"),
    *(Column(f"{axis.name}_ran", _ARROW[axis.type], axis.ran or "") for axis in RAN),
    Column(
        "kv_cache_tokens",
        INT,
        "tokens that the KV cache of the engine holds, from its log; of several engines together",
    ),
    Column("model_path", TEXT, "where the files were"),
    Column("request_set_digest", TEXT, "sha256 of the request set: its token ids and lengths"),
    Column("slo", TEXT, "serve: the limits of goodput as JSON; null without"),
    Column("slos", TEXT, "capacity: the config's slos as JSON"),
    Column("profiler_ran", TEXT, "capture: torch or nsys, with its version"),
    Column(
        "capture_steady_from",
        INT,
        "capture: so many decode steps after each prefill are in no figure of the decode",
    ),
    Column("capture_files", TEXTS, "capture: the capture's files, below the results root"),
    Column("vllm_results", TEXTS, "serve: vLLM's own result JSON per seed, below the results root"),
    Column("model_digest", TEXT, "sha256 of the model's shape and weight files' sizes"),
    Column("hostname", TEXT, "node"),
    Column("cpu_model", TEXT, "processor of the node"),
    Column("slurm_job_id", TEXT, "job (array element included); null outside Slurm"),
    Column("session_id", TEXT, "the executor's name of the session"),
    Column("session_order", INT, "position of the cell in this engine start, from 0"),
    Column("session_shuffled", BOOL, "the cells of the session were to run in shuffled order"),
    Column("engine_id", TEXT, "one per engine start"),
    Column("engine_start_s", FLOAT, "seconds from process start to ready"),
    *START_PHASES,
    Column("warmups", INT, "iterations discarded"),
    Column("repeats", INT, "iterations kept"),
    Column("gap_s", FLOAT, "end of the engine's last measurement to this start; null if first"),
    Column("started_at", TEXT, "UTC, ISO 8601: first warm-up"),
    Column("measured_at", TEXT, "UTC, ISO 8601: first kept repeat"),
    Column("ended_at", TEXT, "UTC, ISO 8601: end of the last repeat"),
    Column("log", TEXT, "the session's log file"),
    Column("imported", TEXT, "not measured here: whose result the row is; null for own rows"),
    Column("synthetic", BOOL, "true: invented for a test, never measured"),
)

COLUMNS = IDENTITY + SAMPLES + FIGURES + CAPACITY + GPU_STATE + PROVENANCE
SCHEMA = pa.schema([pa.field(c.name, c.type, metadata={"doc": c.doc}) for c in COLUMNS])
IDENTITY_NAMES = tuple(column.name for column in IDENTITY)
