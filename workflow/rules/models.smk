# What a cell needs of its model before it starts. These rules run where `snakemake` runs: compute
# nodes often reach no network.


# A model of random weights, made on the spot: its public shape and a tokenizer of its own.
rule model_folder:
    output:
        config=f"{RESULTS}/models/{{model}}/config.json",
        tokenizer=f"{RESULTS}/models/{{model}}/tokenizer.json",
    log:
        f"{RESULTS}/logs/models/{{model}}.log",
    params:
        shape=lambda wc: SWEEP.model(wc.model).shape,
        folder=lambda wc, output: str(Path(output.config).parent),
    shell:
        f"{PYTHON} -m tpsweep model {{params.shape:q}} {{params.folder:q}} 2>&1 | tee {{log:q}} >&2 2> /dev/null"


# A hub model's weights (once), or only its config and tokenizer for dummy weights; for a local
# folder the proof that it is there.
rule weights:
    output:
        f"{RESULTS}/models/{{model}}/available.json",
    log:
        f"{RESULTS}/logs/models/{{model}}.log",
    params:
        request=lambda wc: SWEEP.fetch_request(wc.model),
    shell:
        f"{PYTHON} -m tpsweep fetch {{params.request:q}} {{output:q}} 2>&1 | tee {{log:q}} >&2 2> /dev/null"
