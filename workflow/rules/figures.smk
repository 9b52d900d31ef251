# The figures as files, drawn from the tables: SVG and PNG, and an index.
FIGURES = f"{RESULTS}/figures"


rule figures:
    input:
        rules.tables.output.data,
    output:
        report(
            directory(FIGURES),
            patterns=["{figure}.svg"],
            caption="../report/figures.rst",
            category="Figures",
        ),
    log:
        f"{RESULTS}/logs/figures.log",
    shell:
        f"{PYTHON} -m tpsweep figures {ROOT} 2> {{log:q}}"
