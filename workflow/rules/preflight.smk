# Before the matrix: one short job per node class and number of GPUs. The cells of a class that fails
# it are never submitted; the others run.


rule preflight:
    input:
        lambda wc: SWEEP.preflight(wc.klass).markers,
    output:
        f"{RESULTS}/{MARKERS}/{{day}}/{{klass}}.ok",
    log:
        f"{RESULTS}/logs/preflight/{{day}}-{{klass}}.log",
    resources:
        gpu_type=lambda wc: SWEEP.preflight(wc.klass).gpu,
        gpus=lambda wc: SWEEP.preflight(wc.klass).gpus,
        runtime=10,
    params:
        request=lambda wc: SWEEP.preflight(wc.klass).to_json(),
    shell:
        f"{PYTHON} scripts/preflight.py --request {{params.request:q}} --results {ROOT}"
        " --output {output:q} > {log:q} 2>&1"


# All classes of the sweep, whatever is measured already: `tpsweep check --site`.
rule preflight_all:
    input:
        SWEEP.preflight_markers,
