# tpsweep: from a matrix in one YAML file to comparison tables. Run as
#     snakemake --profile cluster/<site>
# The profile names the sweep (configfile) and the site (config: site=...); see README.md.
from snakemake.utils import min_version

min_version("9.16")


include: "workflow/rules/common.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/preflight.smk"
include: "workflow/rules/cells.smk"
include: "workflow/rules/captures.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/report.smk"


localrules:
    all,
    manifest,
    new_config,
    again,
    model_folder,
    weights,
    preflight_all,
    communication,
    tables,
    figures,
    report,


rule all:
    default_target: True
    input:
        # The cells too: tables made after a failure must not hide that a cell is missing.
        SWEEP.wanted,
        COMMUNICATION,
        rules.tables.output,
        rules.figures.output,
        REPORT,
        NEW_CONFIG,
        REPEATED,


# A rule whose input failed never runs, so after a failure tables and page are made from here: they
# say INCOMPLETE n/m and name what is missing. A preflight alone has no manifest to make them from.
# Exit code 1 of `tables`: a row could not be read, and the tables say so. From 2 on there are none,
# or old ones, from which nothing may be made.
onerror:
    shell(
        f"rm -f {ROOT}/.new-config {ROOT}/{AGAIN};"
        f" if [ -e {MANIFEST_FILE} ] && {{{{ {PYTHON} -m tpsweep tables {ROOT} || [ $? -eq 1 ]; }}}};"
        f" then {PYTHON} -m tpsweep figures {ROOT} || true;"
        f" {PYTHON} -m tpsweep page {ROOT} || true;"
        f" {PYTHON} -m tpsweep outcome --failed {ROOT} || true; fi"
    )


onsuccess:
    shell(f"rm -f {ROOT}/.new-config {ROOT}/{AGAIN}")
    show_outcome()
