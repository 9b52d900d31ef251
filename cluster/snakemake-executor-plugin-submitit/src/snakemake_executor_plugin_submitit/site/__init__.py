"""site.yaml: what a cluster or host is, and how it names its GPUs, limits and Slurm flags."""

from .load import load_site
from .model import (
    CPU,
    MARGIN_MINUTES,
    ONE_LINE,
    OWN_FLAGS,
    Container,
    GpuClass,
    QosLimits,
    Site,
    SiteError,
    is_one_line,
)

__all__ = [
    "CPU",
    "MARGIN_MINUTES",
    "ONE_LINE",
    "OWN_FLAGS",
    "Container",
    "GpuClass",
    "QosLimits",
    "Site",
    "SiteError",
    "is_one_line",
    "load_site",
]
