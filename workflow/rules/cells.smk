# One job per cell: one Parquet file, no input but its model and its class's preflight. The executor
# packs ready cells of equal `session` into one task, starts `session_command` (the engine daemon)
# in it once, and runs the clients below one after another.


def of_job(workload, what):
    """A function of a cell's wildcards: that part of its job."""
    return lambda wc: getattr(SWEEP.job(results_paths.row(workload, wc.cell)), what)


def of_cell(workload, function):
    """The same for a function of the path of the cell's row."""
    return lambda wc: function(results_paths.row(workload, wc.cell))


for WORKLOAD in WORKLOADS:

    rule:
        name:
            WORKLOAD
        input:
            of_cell(WORKLOAD, SWEEP.inputs),
        output:
            f"{RESULTS}/{results_paths.row(WORKLOAD, '{cell}')}",
        log:
            f"{RESULTS}/logs/{WORKLOAD}/{{cell}}.log",
        resources:
            gpu_type=of_job(WORKLOAD, "gpu_type"),
            gpus=of_job(WORKLOAD, "gpus"),
            nodes=of_job(WORKLOAD, "nodes"),
            runtime=of_job(WORKLOAD, "minutes"),
            session=of_job(WORKLOAD, "session"),
            session_command=of_job(WORKLOAD, "session_command"),
            session_runtime=SWEEP.config.engine_start_minutes,
            session_order=of_job(WORKLOAD, "order"),
            failure_record=of_cell(WORKLOAD, SWEEP.failure_record),
            # No param: another place of the same file must not rerun a cell.
            dataset=of_job(WORKLOAD, "dataset"),
        params:
            cell=of_job(WORKLOAD, "json"),
        shell:
            f"{PYTHON} scripts/measure.py --workload {WORKLOAD} --cell {{params.cell:q}} --results {ROOT}"
            " --log {log:q} --dataset={resources.dataset:q}"
            " --session-command {resources.session_command:q}"
