"""What the datasheets promise of a card, by the name that nvidia-smi gives it (data/cards.yaml)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml


@dataclass(frozen=True)
class Card:
    """A GPU's datasheet figures. ``bf16_tflops`` is dense, ``bandwidth_tb_s`` the memory's.

    ``nvlink_gb_s`` is one direction (None without NVLink), ``nvlink_gpus`` the most GPUs it joins.
    ``fp8``: its tensor cores multiply eight-bit floats; else vLLM unpacks them to 16 bits first.
    """

    name: str
    bandwidth_tb_s: float
    bf16_tflops: float
    memory_gib: float
    link: str
    nvlink_gb_s: float | None
    nvlink_gpus: int
    source: str
    fp8: bool = True


def card_by_name(name: str) -> Card | None:
    """The card of that name; None for a processor or a card that the table does not have."""
    return cards().get(name)


def unknown_card(name: str) -> str:
    """Why nothing is known of a card, and what it may be called."""
    like = [known for known in cards() if name.lower() in known.lower()]
    known = f"; allowed: nvidia-smi's name, such as {' or '.join(like)}" if like else ""
    return f"no datasheet figures for the card {name!r}{known}"


@cache
def cards() -> dict[str, Card]:
    """All cards of the table by name."""
    text = (Path(__file__).parent / "data" / "cards.yaml").read_text("utf-8")
    return {name: Card(name, **figures) for name, figures in yaml.safe_load(text).items()}
