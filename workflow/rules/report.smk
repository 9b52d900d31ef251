# The page, from the rows, failures and manifest: as the tables, made anew from onerror.
REPORT = f"{RESULTS}/report.html"


rule report:
    input:
        manifest=MANIFEST,
        cells=SWEEP.wanted,
        captures=COMMUNICATION,
    output:
        REPORT,
    log:
        f"{RESULTS}/logs/report.log",
    shell:
        f"{PYTHON} -m tpsweep page {ROOT} 2> {{log:q}}"
