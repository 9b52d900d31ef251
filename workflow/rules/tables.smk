# From the rows and the manifest to the comparison tables.
TABLES = expand(
    f"{RESULTS}/tables/{{table}}.{{format}}",
    table=["cells", "tp_comparison", "throughput", "serving", "communication", "terms"]
    + ["batch_scaling", "tp_pairs", "crossover", "floors", "replicas"]
    + ["validity"],
    format=["parquet", "csv", "md"],
)


# There only while the manifest is that of another config, so that it is written anew; Snakemake's
# own record of params does not travel with a copied or cloned results folder.
rule new_config:
    output:
        touch(f"{RESULTS}/.new-config"),


# An input of the cells whose rows are there and cannot be read: Snakemake sees nothing wrong with them.
rule again:
    output:
        touch(f"{RESULTS}/{AGAIN}"),


REPEATED = rules.again.output if SWEEP.damaged else []
NEW_CONFIG = [] if SWEEP.is_manifest_current() else rules.new_config.output


rule manifest:
    input:
        NEW_CONFIG,
    output:
        MANIFEST,
    log:
        f"{RESULTS}/logs/manifest.log",
    params:
        sweep=lambda wc: SWEEP.raw,  # as it is: braces in it are no wildcards
    shell:
        f"{PYTHON} -m tpsweep manifest {{params.sweep:q}} {{output:q}} 2>&1 | tee {{log:q}} >&2 2> /dev/null"


rule tables:
    input:
        manifest=MANIFEST,
        cells=SWEEP.wanted,
        captures=COMMUNICATION,
    output:
        TABLES,
    log:
        f"{RESULTS}/logs/tables.log",
    shell:
        f"{PYTHON} -m tpsweep tables {ROOT} 2>&1 | tee {{log:q}} >&2 2> /dev/null"
