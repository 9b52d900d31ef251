# From a capture to where its steps spent their time: a report and the picture of one decode step.
COMMUNICATION = SWEEP.communication
CAPTURE = results_paths.row("capture", "{cell}")


rule communication:
    input:
        # Not newer than: a cloned results folder has times of its own. A row that is measured again
        # runs this again all the same, as a job of this run has made it.
        row=ancient(f"{RESULTS}/{CAPTURE}"),
        again=lambda wc: SWEEP.analysis_inputs(results_paths.row("capture", wc.cell)),
    output:
        report=f"{RESULTS}/{results_paths.capture_report(CAPTURE)}",
        picture=f"{RESULTS}/{results_paths.capture_picture(CAPTURE)}",
    log:
        f"{RESULTS}/logs/communication/{{cell}}.log",
    shell:
        # 1: analysed, and something is wrong with it: the report says what, the tables mark it.
        # 2: not analysed, and the last line says why.
        f"{PYTHON} -m tpsweep comm {{input.row:q}} --output {{output.report:q}}"
        " --timeline {output.picture:q} > {log:q} 2>&1 || [ $? -eq 1 ] || {{ tail -n 1 {log:q} >&2; exit 2; }}"
