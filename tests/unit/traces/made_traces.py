"""Made-up PyTorch profiler traces (SYNTHETIC, and the files say so), whose truth is known."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CUSTOM = "void vllm::cross_device_reduce_1stage<__nv_bfloat16, 2>(vllm::RankData*)"
NCCL = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)"
GATHER = "ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgsStorage<4096ul>)"
SCATTER = "ncclDevKernel_ReduceScatter_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)"
SEND = "ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096ul>)"
GENERIC = "ncclDevKernel_Generic_1(ncclDevKernelArgsStorage<4096ul>)"
GEMM = "nvjet_sm90_tst_64x8"
DECODE = "execute_context_0(0)_generation_1(1)"


@dataclass
class Trace:
    """One rank's trace: kernels back to back, each launched 1 us before it runs; times in us."""

    device: int = 0
    now: float = 1000.0
    events: list[dict[str, Any]] = field(default_factory=list)

    def step(self, words: str = DECODE) -> None:
        """The host announces a step."""
        self._event("user_annotation", words, self.now - 3, 5)

    def run(self, name: str, us: float, around: dict[str, Any] | None = None, **args: Any) -> None:
        """A kernel with further arguments; ``around``: category, name and arguments of a range
        around its launch, or around the kernel itself (``gpu_user_annotation``)."""
        number = len(self.events)
        if around is not None:
            begin = self.now if around["cat"].startswith("gpu") else self.now - 1.5
            self._event(around["cat"], around["name"], begin, us, **around.get("args", {}))
        self._event("cuda_runtime", "cudaLaunchKernel", self.now - 1, 0.5, correlation=number)
        device = {"device": self.device, "stream": 7, "correlation": number}
        self._event("kernel", name, self.now, us, **device, **args)
        self.now += us

    def _event(self, category: str, name: str, at: float, us: float, **args: Any) -> None:
        event = {"ph": "X", "cat": category, "name": name, "ts": at, "dur": us, "args": args}
        self.events.append(event)

    def write(self, path: Path, info: dict[str, Any] | None = None) -> Path:
        """The trace as a file; ``info``: its ``distributedInfo``."""
        head = {"SYNTHETIC": "made up for a test"}
        if info is not None:
            head["distributedInfo"] = info  # type: ignore[assignment]
        path.write_text(json.dumps({**head, "traceEvents": self.events}))
        return path


def info(rank: int, world: int, *groups: tuple[str, list[int]]) -> dict[str, Any]:
    """``distributedInfo`` of a rank, with process groups."""
    config = [
        {"pg_name": str(at), "pg_desc": words, "pg_size": len(ranks), "ranks": ranks}
        for at, (words, ranks) in enumerate(groups)
    ]
    known = {"backend": "nccl", "rank": rank, "world_size": world}
    return {**known, "pg_config": config} if groups else known


def model(path: Path, layers: int, **more: Any) -> Path:
    """A config.json."""
    path.write_text(json.dumps({"num_hidden_layers": layers, "hidden_size": 1000, **more}))
    return path
