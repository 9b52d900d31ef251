"""Before the matrix: does a node of a class have what its cells need? One short job per class.

A class is a node class and a number of GPUs. The job writes ``preflight/<class>.json`` below the
results root, whatever it finds, and the marker that the class's cells wait for only if all is well.
If the job ends before it can say anything (never submitted, node lost, no such interpreter there),
the executor writes in the same place why.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from tpsweep.core.atomic import replacing
from tpsweep.core.failure import FINAL_EXIT_CODE
from tpsweep.core.preflight_record import Check, Record, Request, record_path
from tpsweep.core.program import REMEDY, same_version
from tpsweep.engine import model_files, nvml, provenance

IMPORT_LIMIT_S = 300
ANSWER = "tpsweep-preflight:"
LEAST_SCRATCH_GIB = 1.0
LEAST_MEMORY_SHARE = 0.9
"""Of what the site file says, which may be the card's nominal size."""
MOST_USED_SHARE = 0.1
"""Of a GPU's memory, by others: vLLM takes 0.9 of it unless told otherwise."""
LEAST_SHM_GIB = 0.25
"""vLLM's workers talk through /dev/shm; containers are often given 64 MiB of it."""
GIB = 2**30


def run(request: Request, markers: Sequence[Path], results: Path, output: Path) -> int:
    """Look, write the record and, if all is well, ``output``; 0 if it is.

    ``markers``: of the models that the class will load.
    """
    link, found = (None, [_cpus(request)]) if request.is_cpu else _gpus(request)
    checks = [*found, _vllm(request), *_weights(request, markers), *_scratch(request, results)]
    return leave(request, checks, link, results, output)


def leave(
    request: Request, checks: list[Check], link: str | None, results: Path, output: Path
) -> int:
    """Say what was found, write the record and, if all is well, ``output``; 0 if it is."""
    where = provenance.host(os.environ)
    record = Record(
        name=request.name,
        ok=all(check.ok for check in checks),
        checks=checks,
        host=where.hostname,
        slurm_job_id=where.slurm_job_id,
        link=link,
    )
    for line in lines(record):
        print(line, file=sys.stdout if record.ok else sys.stderr)
    try:
        with replacing(results / record_path(request.name)) as temporary:
            temporary.write_text(json.dumps(asdict(record), indent=1) + "\n", "utf-8")
        if record.ok:
            with replacing(output) as temporary:
                temporary.write_text(f"{record.when}\n", "utf-8")
    except OSError as error:
        print(f"  FAILED record: {error}", file=sys.stderr)
        return FINAL_EXIT_CODE
    return 0 if record.ok else FINAL_EXIT_CODE


def lines(record: Record) -> Iterator[str]:
    """A record for people."""
    verdict = "ok" if record.ok else "FAILED"
    link = f", link {record.link}" if record.link else ""
    on = f" on {record.host}" if record.host else ""
    yield f"preflight of {record.name}{on}{link}: {verdict}"
    for check in record.checks:
        yield f"  {'ok    ' if check.ok else 'FAILED'} {check.name}: {check.said}"
    if not record.ok:  # last, where the executor looks: a log's end is all that it shows
        yield f"preflight of {record.name} failed: {record.reason}"


def count_of(request: Request, names: list[str]) -> Check:
    """As many GPUs as asked."""
    found = f"{len(names)} visible"
    if len(names) == request.on_node:
        return Check("GPUs", True, found)
    return Check("GPUs", False, f"{found}, {request.on_node} asked")


def cards_of(request: Request, names: list[str]) -> Check:
    """All of them what the site file says."""
    others = sorted({name for name in names if name != request.card})
    if others:
        return Check("card", False, f"{', '.join(others)}; the site file says {request.card}")
    return Check("card", True, request.card)


def memory_of(request: Request, total_used: Sequence[tuple[float, float]]) -> Check:
    """As much memory as the site file says (GiB), and nobody else's work in it."""
    said = ", ".join(f"{used:.1f} of {total:.1f} GiB used" for total, used in total_used)
    least = (request.memory_gib or 0) * LEAST_MEMORY_SHARE
    if any(total < least for total, _ in total_used):
        return Check("memory", False, f"{said}; the site file says {request.memory_gib:g} GiB")
    if any(used > total * MOST_USED_SHARE for total, used in total_used):
        return Check("memory", False, f"{said}: other processes use these GPUs")
    return Check("memory", True, said)


def _gpus(request: Request) -> tuple[str | None, list[Check]]:
    import pynvml

    checks: list[Check] = []
    link = None
    try:
        uuids = nvml.visible_uuids()
        names = [info.name for info in nvml.describe(uuids)]
        checks += [count_of(request, names), cards_of(request, names)]
        try:
            checks.append(memory_of(request, _memory(uuids)))
        except pynvml.NVMLError_NotSupported:
            checks.append(Check("memory", True, "NVML does not report this card's memory"))
        if len(uuids) > 1:
            link = nvml.weakest_link(uuids)
            said = link or "unknown: nvidia-smi topo -m does not report it"
            checks.append(Check("link between GPUs", link is not None, said))
    except (nvml.GpuError, pynvml.NVMLError) as error:
        checks.append(Check("NVML" if checks else "GPUs", False, str(error)))
    return link, checks


def _memory(uuids: Sequence[str]) -> list[tuple[float, float]]:
    """GiB of each GPU, and GiB of it in use."""
    import pynvml

    handles = [pynvml.nvmlDeviceGetHandleByUUID(identity) for identity in uuids]
    found = [pynvml.nvmlDeviceGetMemoryInfo(handle) for handle in handles]
    return [(memory.total / GIB, memory.used / GIB) for memory in found]


def _cpus(request: Request) -> Check:
    count = len(provenance.usable_cpus())
    said = f"{count} processors, {request.on_node} ranks"
    return Check("processors", count >= request.on_node, said)


def _vllm(request: Request) -> Check:
    """vLLM and torch in a process of their own: an import that crashes is a reason, too."""
    if not request.imports:
        found = importlib.util.find_spec("vllm") is not None
        return Check("vLLM", found, "installed" if found else "not installed")
    program = (
        "import json, torch, vllm; from vllm import LLM; cuda = torch.cuda; "
        f"print('\\n{ANSWER}', "
        "json.dumps([vllm.__version__, cuda.device_count(), torch.version.cuda]))"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            timeout=IMPORT_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Check("vLLM", False, f"not imported after {IMPORT_LIMIT_S} s")
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["no error output"]
        return Check("vLLM", False, f"import failed ({done.returncode}): {said[-1].strip()[:200]}")
    # Not simply the last line: what is imported may print, too.
    answers = [line for line in done.stdout.splitlines() if line.startswith(ANSWER)]
    if not answers:
        return Check("vLLM", False, "imported, but it ended the Python process")
    version, devices, cuda = json.loads(answers[-1].removeprefix(ANSWER))
    if not same_version(request.vllm_version, version):
        return Check("vLLM", False, f"{version}, {request.vllm_version} asked")
    if not request.is_cpu and devices != request.on_node:
        if cuda is None:
            return Check("vLLM", False, f"{version}, but its torch has no CUDA; {REMEDY}")
        seen = f"{version}, but torch (CUDA {cuda}) sees {devices} GPUs, {request.on_node} asked"
        return Check("vLLM", False, seen)
    on = "" if request.is_cpu else f", torch sees {devices} GPUs"
    return Check("vLLM", True, f"{version}{on}")


def _weights(request: Request, markers: Sequence[Path]) -> Iterator[Check]:
    for path in markers:
        folder = _model_folder(path)
        try:
            count = model_files.look_at(folder, has_weights=str(path) in request.real_weights)
        except (OSError, ValueError) as error:
            yield Check("weights", False, f"{folder}: {error}")
        else:
            yield Check("weights", True, f"{folder}: {count} files readable")


def _model_folder(path: Path) -> Path:
    """The folder that a marker stands for: its own, or the one that it names."""
    if path.name != "available.json":
        return path.parent
    try:
        return Path(json.loads(path.read_text("utf-8"))["folder"])
    except (OSError, ValueError, KeyError):
        return path.parent


def _scratch(request: Request, results: Path) -> Iterator[Check]:
    yield _writable("results", results, 0.0)
    yield _writable("scratch", Path(tempfile.gettempdir()), LEAST_SCRATCH_GIB)
    if request.on_node > 1:
        yield _writable("shared memory", Path("/dev/shm"), LEAST_SHM_GIB)


def _writable(name: str, folder: Path, least_gib: float) -> Check:
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".preflight-") as file:
            file.write(b"x" * 4096)
            file.flush()
        free = shutil.disk_usage(folder).free / GIB
    except OSError as error:
        return Check(name, False, f"{folder}: {error.strerror or error}")
    said = f"{folder} writable, {free:.1f} GiB free"
    if free < least_gib:
        return Check(name, False, f"{said}, {least_gib:g} needed")
    return Check(name, True, said)
