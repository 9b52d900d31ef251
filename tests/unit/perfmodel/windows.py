"""Shapes whose layers look back a window only."""

from __future__ import annotations

from dataclasses import replace

from tpsweep.perfmodel.model_shape import Shape
from tpsweep.perfmodel.modules import Grouped


def windowed(shape: Shape, window: int) -> Shape:
    """The shape with attention over ``window`` tokens in every layer."""
    layers = []
    for layer in shape.decoder:
        assert isinstance(layer.attention, Grouped)
        layers.append(replace(layer, attention=replace(layer.attention, window=window)))
    return replace(shape, decoder=tuple(layers))
