# Before the matrix: one short job per node class and number of GPUs. The cells of a class that fails
# it are never submitted; the others run.


rule preflight:
    input:
        lambda wc: SWEEP.preflight_models(wc.klass),
    output:
        f"{RESULTS}/{MARKERS}/{{day}}/{{klass}}.ok",
    log:
        f"{RESULTS}/logs/preflight/{{day}}-{{klass}}.log",
    resources:
        gpu_type=lambda wc: SWEEP.preflight(wc.klass).gpu,
        gpus=lambda wc: SWEEP.preflight(wc.klass).on_node,
        runtime=PREFLIGHT_MINUTES,
        # Where the program itself writes, too: a job that was never submitted, or died, says why.
        failure_record=lambda wc: f"{RESULTS}/{record_path(wc.klass)}",
        # No param: how vLLM is reached is not what is asked of a class.
        program=lambda wc: SWEEP.preflight_program(wc.klass),
    params:
        request=lambda wc: SWEEP.preflight(wc.klass).to_json(),
    shell:
        # What the last one found is not what this one finds, even if it cannot begin.
        "rm -f {resources.failure_record:q}; "
        f"{PYTHON} scripts/preflight.py --request {{params.request:q}} --models {{input:q}}"
        f" --results {ROOT} --output {{output:q}} --program={{resources.program:q}}"
        # Its last line says what failed, and the executor shows it.
        " 2>&1 | tee {log:q}"


# All classes of the sweep, whatever is measured already: `tpsweep check --site`.
rule preflight_all:
    input:
        SWEEP.preflight_markers,
