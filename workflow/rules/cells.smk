# One job per cell: one Parquet file, no input but its model and its class's preflight. The executor packs ready cells of
# equal `session` into one task, starts `session_command` (the engine daemon) in it once, and runs
# the clients below one after another.


rule latency:
    input:
        lambda wc: SWEEP.inputs(f"cells/latency/{wc.cell}.parquet"),
    output:
        f"{RESULTS}/cells/latency/{{cell}}.parquet",
    log:
        f"{RESULTS}/logs/latency/{{cell}}.log",
    resources:
        gpu_type=lambda wc: SWEEP.job(f"cells/latency/{wc.cell}.parquet").gpu_type,
        gpus=lambda wc: SWEEP.job(f"cells/latency/{wc.cell}.parquet").gpus,
        runtime=lambda wc: SWEEP.job(f"cells/latency/{wc.cell}.parquet").minutes,
        session=lambda wc: SWEEP.job(f"cells/latency/{wc.cell}.parquet").session,
        session_command=lambda wc: SWEEP.job(
            f"cells/latency/{wc.cell}.parquet"
        ).session_command,
        session_runtime=SWEEP.config.engine_start_minutes,
        failure_record=lambda wc: SWEEP.failure_record(
            f"cells/latency/{wc.cell}.parquet"
        ),
        session_order=lambda wc: SWEEP.job(f"cells/latency/{wc.cell}.parquet").order,
    params:
        cell=lambda wc: SWEEP.job(f"cells/latency/{wc.cell}.parquet").cell.to_json(),
    shell:
        f"{PYTHON} scripts/latency.py --cell {{params.cell:q}} --results {ROOT} --log {{log:q}}"
        " --session-command {resources.session_command:q}"
