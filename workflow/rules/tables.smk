# From the rows and the manifest to the comparison tables.
TABLES = expand(
    f"{RESULTS}/tables/{{table}}.{{format}}",
    table=["cells", "tp_comparison"],
    format=["parquet", "csv", "md"],
)


rule manifest:
    output:
        MANIFEST,
    log:
        f"{RESULTS}/logs/manifest.log",
    params:
        sweep=SWEEP.raw,
    shell:
        f"{PYTHON} -m tpsweep manifest {{params.sweep:q}} {{output:q}} 2> {{log:q}}"


rule tables:
    input:
        manifest=MANIFEST,
        cells=list(SWEEP.jobs),
    output:
        TABLES,
    log:
        f"{RESULTS}/logs/tables.log",
    shell:
        f"{PYTHON} -m tpsweep tables {ROOT} 2> {{log:q}}"
