"""The axes' part of docs/config.md, from their declarations: ``python -m tools.axes``."""

from __future__ import annotations

from pathlib import Path

from tabulate import tabulate

from tpsweep.core.axes import LAYOUT, LISTED, REQUIRED, SWEEP, Axis

PAGE = Path(__file__).parents[1] / "docs" / "config.md"
BEGIN, END = "<!-- axes: made by `python -m tools.axes` -->", "<!-- end of axes -->"


def section() -> str:
    """A table with one line per axis that the config has a list of."""
    headers = ("axis", "key", "stands in", "values", "vLLM's argument", "meaning")
    lines = [_line(axis) for axis in LISTED]
    return f"{BEGIN}\n\n{tabulate(lines, headers=headers, tablefmt='pipe')}\n\n{END}"


def _line(axis: Axis) -> tuple[str, ...]:
    argument = f"`{axis.vllm_arg}`" if axis.vllm_arg else ""
    return (
        f"`{axis.name}`",
        f"`{axis.config_key}`",
        _places(axis),
        _values(axis),
        argument,
        axis.doc,
    )


def _places(axis: Axis) -> str:
    if axis in LAYOUT and axis.lists.get(SWEEP) is REQUIRED:
        return "the top level (required without `layouts`); a workload may narrow it"
    if axis.is_sweep_wide:
        return f"the top level{_default(axis.lists[SWEEP])}; a workload may narrow it"
    return ", ".join(f"`{kind}`{_default(default)}" for kind, default in axis.lists.items())


def _default(default: list[object] | None) -> str:
    if default is REQUIRED:
        return " (required)"
    values = (
        "none" if default is None else ", ".join("null" if v is None else str(v) for v in default)
    )
    return f" (default: {values})"


def _values(axis: Axis) -> str:
    if axis.choices:
        return ", ".join(f"`{choice}`" for choice in axis.choices)
    if axis.type is int:
        return f"integers from {axis.least}" + (", null" if axis.nullable else "")
    return {str: "names", float: "numbers above 0, `inf`", bool: "true, false"}[axis.type]


def replaced(page: str) -> str:
    """``page`` with its section made from the declarations. Raises ``ValueError`` without one."""
    begin, end = page.index(BEGIN), page.index(END) + len(END)
    return page[:begin] + section() + page[end:]


if __name__ == "__main__":
    PAGE.write_text(replaced(PAGE.read_text("utf-8")), "utf-8")
