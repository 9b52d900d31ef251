"""Where a tensor-parallel step spends its time, from profiler captures of vLLM.

The way of the data: ``reading`` turns files into ``events.RankEvents`` (one per rank), ``kernels``
says what each kernel is, ``collectives`` groups kernels into collectives, ``groups`` says which
ranks belong together, ``steps`` cuts the time
into engine steps, ``attribution`` gives every nanosecond of a step to one term: that is a
``CutCapture``. ``report`` sums it up, ``timeline`` draws one step of it, ``command`` prints. Pure
functions on arrays in between; files at both ends only.
"""

from tpsweep.core.errors import CaptureError
from tpsweep.traces.report import CommReport, analyse, analyse_groups

__all__ = ["CaptureError", "CommReport", "analyse", "analyse_groups"]
