# The page, from the tables and the pictures of captured steps.
REPORT = f"{RESULTS}/report.html"


rule report:
    input:
        tables=rules.tables.output.data,
        captures=COMMUNICATION,
    output:
        report(REPORT, caption="../report/page.rst", category="Page"),
    log:
        f"{RESULTS}/logs/report.log",
    shell:
        f"{PYTHON} -m tpsweep page {ROOT} 2> {{log:q}}"
