"""tpsweep: tensor-parallel benchmark sweeps of vLLM, from one YAML file to comparison tables.

This file stays empty of imports: the clients in ``scripts/`` import ``measure.client`` once per
cell and must not pay for pandas or vLLM.
"""

__version__ = "0.1.0"
