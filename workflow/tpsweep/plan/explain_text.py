"""An explanation as Markdown, which reads well in a terminal, too."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

from tpsweep.perfmodel.modules import WHOLE
from tpsweep.plan.explain import COMMUNICATION, STATE, Explanation, OnNodes
from tpsweep.plan.split import MEANING, VLLM_VERSION, Matrix


def text(name: str, found: Explanation, nodes: Sequence[OnNodes] = ()) -> str:
    """The page without its title; ``nodes``: on the node classes of a site."""
    parts = [_head(name, found), _splits(found), _matrices(found), _sums(found), _steps(found)]
    parts += [_collectives(found), _nodes(found, nodes), _where(found)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(name: str, found: Explanation) -> str:
    return (
        f"{name} at TP={found.tp}: {found.layers} layers, hidden size {found.hidden},"
        f" {found.heads_per_gpu} query heads and {found.kv_heads_per_gpu} KV heads a GPU"
        + (f" (each KV head on {found.kv_heads_repeat} GPUs)" if found.kv_heads_repeat > 1 else "")
        + f", {found.dtype}, a decode step of {found.batch}"
        + (" sequence." if found.batch == 1 else " sequences.")
    )


def _splits(found: Explanation) -> str:
    kinds = dict.fromkeys(matrix.split for matrix in found.matrices)
    return "\n".join(["How a matrix is split:", "", *(f"- *{k}*: {MEANING[k]}." for k in kinds)])


def _matrices(found: Explanation) -> str:
    rows = [
        [
            matrix.name,
            matrix.split,
            _shape(matrix.full),
            _shape(matrix.shard),
            matrix.count,
            size(matrix.bytes_per_gpu),
            size(matrix.count * matrix.bytes_per_gpu),
            f"{_file(matrix)}: {matrix.cls}",
        ]
        for matrix in found.matrices
    ]
    heads = ["matrix", "split", "outputs x inputs", "on a GPU", "count"]
    heads += ["bytes of one", "of all", f"vLLM {VLLM_VERSION}"]
    return _table(rows, heads)


def _sums(found: Explanation) -> str:
    whole = sum(m.count * m.bytes_per_gpu for m in found.matrices if m.split == WHOLE)
    return (
        f"Weights of a GPU: {size(found.weight_bytes_per_gpu)}, of which {size(whole)} are on every"
        f" GPU. KV cache: {found.kv_bytes_per_token:,} bytes a token and GPU"
        + ("." if found.cache_dtype == found.dtype else f" ({found.cache_dtype}).")
    )


def _steps(found: Explanation) -> str:
    if found.tp == 1:
        return "At TP=1 nothing is split, and there are no collectives."
    lines = [
        "A decode step, in order:",
        "",
        "1. Each GPU looks up the tokens that are in its part of the vocabulary, zeros for the"
        " others: an all-reduce gives every GPU the hidden state.",
        "2. In each layer, norm (everywhere the same), then query, key and value of the GPU's own"
        " heads: no communication. Attention over the GPU's own part of the KV cache.",
        "3. `o_proj` takes the heads' outputs as they lie, split: its product is a partial sum, and"
        " an all-reduce makes it whole.",
        "4. Norm, then the GPU's part of the MLP's inner width: no communication; the way back is"
        " split by rows: the second all-reduce of the layer.",
        "5. After the last layer each GPU has the logits of its part of the vocabulary: an"
        " all-gather.",
    ]
    return "\n".join(lines)


def _collectives(found: Explanation) -> str:
    if not found.collectives:
        return ""
    rows = [
        [
            one.after,
            one.kind,
            _shape(one.shape),
            f"{one.bytes:,}",
            one.per_step,
            f"{one.bytes_per_step:,}",
            f"{one.file.rsplit('/', 1)[-1]}: {one.cls}",
        ]
        for one in found.collectives
    ]
    heads = ["after", "collective", "shape", "bytes a GPU", "per step", "bytes a step"]
    table = _table(rows, [*heads, f"vLLM {VLLM_VERSION}"])
    ring, shot = (round(found.link_bytes(one_shot=one)) for one in (False, True))
    over = f"{ring:,} bytes" if ring == shot else f"{ring:,} (ring) to {shot:,} bytes (one-shot)"
    return (
        f"{table}\n\n{found.all_reduces} all-reduces a step. Over its links a GPU receives {over}"
        " in them, and sends as much."
    )


def _nodes(found: Explanation, nodes: Sequence[OnNodes]) -> str:
    """Where the GPUs are, and what passes between nodes."""
    if not nodes:
        return ""
    lines = [f"- {node_line(one)}" for one in nodes]
    if any(one.nodes > 1 and not one.problem for one in nodes):
        sent = round(found.link_bytes(one_shot=False))
        lines += [
            "",
            "Between nodes NCCL's all-reduces cross the network: by a ring each node sends"
            f" {sent:,} bytes a step to the next, and the custom all-reduce cannot run.",
        ]
    return "\n".join(["Nodes:", "", *lines])


def node_line(one: OnNodes) -> str:
    """How many nodes of a class hold a layout."""
    if one.nodes == 1:
        return f"{one.gpu}: one, of {one.per_node} GPUs."
    said = f"{one.gpu}: {one.nodes}, with {one.each} of {one.per_node} GPUs each"
    return f"{said}: not planned, {one.problem}." if one.problem else f"{said}."


def _where(found: Explanation) -> str:
    lines = [
        f"Where it is in vLLM {VLLM_VERSION}, below `vllm/`:",
        "",
        f"- `{STATE}`: which ranks are a TP group (`GroupCoordinator`), and its `all_reduce`.",
        f"- `{COMMUNICATION}`: `tensor_model_parallel_all_reduce`, `..._all_gather`: what layers"
        " call.",
        f"- `{found.model_file}`: the model, made of these layers.",
        *(
            f"- `{file}`: {', '.join(f'`{c}`' for c in classes)}."
            for file, classes in _files(found)
        ),
    ]
    return "\n".join(lines)


def _files(found: Explanation) -> list[tuple[str, list[str]]]:
    by_file: dict[str, dict[str, None]] = {}
    for file, cls in [
        *((one.file, one.cls) for one in found.matrices),
        *((one.file, one.cls) for one in found.collectives),
    ]:
        by_file.setdefault(file, {})[cls] = None
    return [(file, list(classes)) for file, classes in by_file.items()]


def _file(matrix: Matrix) -> str:
    return matrix.file.rsplit("/", 1)[-1]


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(str(length) for length in shape)


def _table(rows: list[list[object]], heads: list[str]) -> str:
    return tabulate(rows, headers=heads, tablefmt="pipe", disable_numparse=True)


def size(number: float) -> str:
    """Bytes with a unit of 1000s and three digits."""
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.4g} GB"
