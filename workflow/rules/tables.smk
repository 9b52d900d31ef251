# From the rows and the manifest to the tables. Figures and page are made from their Parquet files.
TABLES = expand(
    f"{RESULTS}/tables/{{table}}",
    table=["cells", "machines", "failures", "choices"]
    + ["tp_comparison", "throughput", "serving", "capacity", "communication", "terms"]
    + ["batch_scaling", "tp_pairs", "crossover", "floors", "layouts"]
    + ["expected", "cost", "models", "metrics", "validity"],
)


# Exists only while the manifest is that of another config, so that it is rewritten; Snakemake's
# own record of params does not travel with a copied or cloned results folder.
rule new_config:
    output:
        touch(f"{RESULTS}/.new-config"),


# An input of the cells whose rows are there and cannot be read: Snakemake sees nothing wrong with them.
rule again:
    output:
        touch(f"{RESULTS}/{AGAIN}"),


REPEATED = rules.again.output if SWEEP.damaged or SWEEP.unread else []
NEW_CONFIG = [] if SWEEP.is_manifest_current() else rules.new_config.output


rule manifest:
    input:
        NEW_CONFIG,
    output:
        MANIFEST,
    log:
        f"{RESULTS}/logs/manifest.log",
    params:
        sweep=lambda wc: SWEEP.raw,  # as it is: braces in it are not wildcards
    shell:
        f"{PYTHON} -m tpsweep manifest {{params.sweep:q}} {{output:q}} 2>&1 | tee {{log:q}} >&2 2> /dev/null"


rule tables:
    input:
        manifest=MANIFEST,
        cells=SWEEP.wanted,
        captures=COMMUNICATION,
    output:
        report(
            expand("{table}.csv", table=TABLES),
            caption="../report/tables.rst",
            category="Tables",
        ),
        expand("{table}.md", table=TABLES),
        data=expand("{table}.parquet", table=TABLES),
    log:
        f"{RESULTS}/logs/tables.log",
    shell:
        f"{PYTHON} -m tpsweep tables {ROOT} 2>&1 | tee {{log:q}} >&2 2> /dev/null"
