"""Speculative decoding on real vLLM: what is counted, and that a row can be made of it.

    python tests/vllm/drafting.py MODEL_FOLDER

An engine host with n-gram drafts. A request set is served (greedy, of repeated tokens: drafts are
accepted), then a static batch is measured. Prints one JSON.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from pathlib import Path


def main() -> int:
    """Command line: see the module's text."""
    model_folder = sys.argv[1]
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from tests.unit.cells import engine, latency_cell, model
    from tests.unit.measure.test_build_row import engine_record
    from tpsweep.engine import provenance, vllm_api

    drafts = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 2}
    args = {"max_model_len": 512, "max_num_seqs": 8, "max_num_batched_tokens": 2048}
    args |= {"enforce_eager": True, "speculative_config": drafts}
    asked = engine(tp=1, model=model(path=model_folder), args=args)
    os.environ.update(vllm_api.engine_env(asked, provenance.usable_cpus()))
    from tpsweep.engine.host import EngineHost
    from tpsweep.engine.nvml import GpuGroup
    from tpsweep.measure import workloads
    from tpsweep.sweep.request_set import RequestSet

    arguments = vllm_api.llm_arguments(asked)
    about = engine_record(arguments=arguments, gpus=GpuGroup())
    host = EngineHost(arguments, served=True)
    before = host.drafts()
    prompts = [[10 + k, 20 + k] * 16 for k in range(4)]
    sent = host.send(RequestSet(prompts, [40] * 4), None, None, 0, {})
    after = host.drafts()
    cell = latency_cell(engine=asked, warmups=1, repeats=3, batch=2, output_len=24)
    load = {"workload": "serve", "batch": None, "num_prompts": 4, "request_rate": math.inf}
    with tempfile.TemporaryDirectory() as folder:
        files = workloads.Files(Path(folder), None)
        static = workloads.measure(cell, host, files, about)
        cell = latency_cell(engine=asked, repeats=3, output_len=40, **load)
        served = workloads.measure(cell, host, files, about)
    found = {
        "errors": [error for error in sent.errors if error],
        "made": after.made - before.made,
        "accepted": after.accepted - before.accepted,
        "length": after.length_since(before),
        "served_tokens": sum(sent.output_lens),
        "tpot_ms": static.figures["tpot_ms"],
        "refusals": static.refusals,
        "column_static": static.figures["acceptance_length"],
        "column_served": served.figures["acceptance_length"],
    }
    host.close()
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
