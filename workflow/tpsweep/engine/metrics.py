"""Counters of a vLLM engine, from its metrics in Prometheus' text format."""

from __future__ import annotations


def total(metrics: str, name: str) -> float:
    """The sum of a counter over all of its labels; 0 if it is not there."""
    from prometheus_client.parser import text_string_to_metric_families

    families = text_string_to_metric_families(metrics)
    return sum(one.value for family in families for one in family.samples if one.name == name)
