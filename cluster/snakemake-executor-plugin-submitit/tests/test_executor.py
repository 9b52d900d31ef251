"""Real Snakemake runs with this executor on this host."""

from __future__ import annotations

import json
import os
import re
import signal
import time

import pytest
from session_testing import Workflow, mentioning, wait_until

SWEEP = """
rule all:
    input: expand("out/{m}/{i}.txt", m=["a", "b"], i=range(4))
rule cell:
    output: "out/{m}/{i}.txt"
    resources:
        gpu_type="cpu", gpus=1, runtime=2, session=lambda w: w.m,
        session_command=COMMAND, session_runtime=1, session_order=lambda w: -int(w.i)
    shell:
        "test ! -e break-{wildcards.m}{wildcards.i}; "
        "echo $SESSION_ORDER $SESSION_STATE > {output}; "
        "echo {wildcards.m}{wildcards.i} >> ran.log"
"""


def test_packs_loses_one_cell_alone_and_reruns_it_alone(workflow: Workflow) -> None:
    workflow.write(SWEEP)
    (workflow.root / "break-a3").touch()
    said = workflow.run("--keep-going", ok=False)
    assert len(workflow.lines("starts.log")) == 2
    assert len(workflow.lines("ran.log")) == 7
    assert not (workflow.root / "out/a/3.txt").exists()
    assert re.search(r"session a-\w+: 4 jobs, 1 x cpu\n", said)
    assert "exit code 1 in session a-" in said
    # By session_order, which is the reverse of the wildcard here; the failing cell was the first.
    assert workflow.lines("out/b/3.txt") == ["0 ready"]
    assert workflow.lines("out/a/0.txt") == ["3 ready"]
    assert [len(record["cells"]) for record in workflow.sessions()] == [4, 4]
    assert [record["starts"] for record in workflow.sessions()] == [1, 1]

    (workflow.root / "break-a3").unlink()
    dry = workflow.run("-n")
    assert re.search(r"cell +1\n", dry)
    workflow.run()
    assert workflow.lines("ran.log")[7:] == ["a3"]
    assert len(workflow.lines("starts.log")) == 3
    assert "Nothing to be done" in workflow.run()


def test_cells_are_reported_as_they_end(workflow: Workflow) -> None:
    workflow.write(
        """
rule all:
    input: expand("{i}.txt", i=range(3))
rule cell:
    output: "{i}.txt"
    resources: session="s", session_order=lambda w: int(w.i)
    shell: "if [ {wildcards.i} = 1 ]; then sleep 2.5; fi; touch {output}"
"""
    )
    process = workflow.start()
    assert process.stdout is not None
    times = [time.monotonic() for line in process.stdout if "Finished jobid" in line]
    process.wait(20)
    # Cells 0, 1, 2 and all: 0 at once, the rest after the sleep, each within a second of its end.
    assert 1.5 < times[1] - times[0] < 3.5
    assert times[2] - times[1] < 1.0


def test_without_session_nested_jobs_and_odd_names(workflow: Workflow) -> None:
    workflow.write(
        """
import sys
NAMES = ["with space", "it's", 'say "hi"', "dollar$x", "semi;colon"]
rule all:
    input:
        expand("out/{n}.txt", n=NAMES),
        expand("{n}.txt", n=["scripted", "ran", "benched", "threads", "grouped"])
rule plain:
    output: "out/{n}.txt"
    log: "logs/{n}.log"
    shell: "printf '%s' {wildcards.n:q} > {output:q} 2> {log:q}"
rule scripted:
    output: "scripted.txt"
    script: "make.py"
rule ran:
    output: "ran.txt"
    run: open(output[0], "w").write("ran")
rule benched:
    output: "benched.txt"
    benchmark: "bench.tsv"
    shell: "touch {output}"
rule grouped:
    output: "grouped.txt"
    group: "g"
    shell: "touch {output}"
rule threads:
    output: "threads.txt"
    threads: 3
    shell: "echo $OMP_NUM_THREADS > {output}"
"""
    )
    (workflow.root / "make.py").write_text("open(snakemake.output[0], 'w').write('scripted')\n")
    workflow.run()
    names = ["with space", "it's", 'say "hi"', "dollar$x", "semi;colon"]
    assert [workflow.lines(f"out/{name}.txt") for name in names] == [[name] for name in names]
    assert workflow.lines("scripted.txt") == ["scripted"]
    assert workflow.lines("ran.txt") == ["ran"]
    assert workflow.lines("threads.txt") == ["3"]
    assert len(workflow.lines("bench.tsv")) == 2
    assert [record["starts"] for record in workflow.sessions()] == [0]
    assert len(workflow.sessions()[0]["cells"]) == 10


@pytest.mark.parametrize("way", ["--directory", "workdir:"])
def test_in_another_folder(workflow: Workflow, way: str) -> None:
    head = 'workdir: "else where"\n' if way == "workdir:" else ""
    workflow.write(
        head
        + """
rule all:
    input: "scripted.txt", "plain.txt"
rule plain:
    output: "plain.txt"
    resources: session="s", session_command="pwd > pwd.txt; touch $SESSION_DIR/ready; sleep 60"
    shell: "pwd > {output}"
rule scripted:
    output: "scripted.txt"
    run: open(output[0], "w").write("ran")
"""
    )
    place = workflow.root / "else where"
    workflow.run(*(["--directory", place.name] if way == "--directory" else []))
    assert workflow.lines("else where/plain.txt") == [str(place)]
    assert workflow.lines("else where/pwd.txt") == [str(place)]
    assert workflow.lines("else where/scripted.txt") == ["ran"]


def test_a_site_in_the_home_folder(workflow: Workflow) -> None:
    workflow.write('rule all:\n    output: "done"\n    shell: "touch {output}"\n')
    home = workflow.root / "home"
    home.mkdir()
    (workflow.root / "site.yaml").rename(home / "site.yaml")
    workflow.run("--submitit-site", "~/site.yaml", HOME=str(home))
    assert (workflow.root / "done").exists()


LATE = """
import asyncio, atexit, concurrent.futures.thread as pool, threading, time
run = asyncio.run
def late(*words):
    while threading.current_thread() is not threading.main_thread() and not pool._shutdown:
        time.sleep(0.01)
    return run(*words)
asyncio.run = late
atexit.register(time.sleep, 0.5)
"""
"""The thread that asks for the status comes to its event loop only as the interpreter ends."""


def test_nothing_to_do_ends_without_a_word_of_the_event_loop(workflow: Workflow) -> None:
    workflow.write('rule all:\n    output: "done"\n    shell: "touch {output}"\n')
    workflow.run()
    (workflow.root / "sitecustomize.py").write_text(LATE)
    path = f"{workflow.root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    said = workflow.run(PYTHONPATH=path)
    assert "Nothing to be done" in said
    assert "futures" not in said


def test_start_that_fails_twice_fails_each_cell_by_itself(workflow: Workflow) -> None:
    workflow.write(
        SWEEP.replace("COMMAND,", "COMMAND + ' --fail',").replace(
            "test !", "[ $SESSION_STATE = ready ]; test !"
        )
    )
    said = workflow.run("--keep-going", ok=False)
    assert len(workflow.lines("starts.log")) == 4  # two sessions
    assert said.count("Error in rule cell") == 8


def test_gpus_are_handed_out_without_overlap(workflow: Workflow) -> None:
    # The six GPUs are FAKE: a pool that CUDA_VISIBLE_DEVICES claims; nothing computes on them.
    workflow.write(
        """
rule all:
    input: expand("{m}.txt", m=list("abcd"))
rule cell:
    output: "{m}.txt"
    resources: gpu_type="fake", gpus=2, session=lambda w: w.m, session_command=COMMAND
    shell: "echo $(date +%s.%N) $CUDA_VISIBLE_DEVICES > {output}; sleep 1; date +%s.%N >> {output}"
""",
        "name: here\ncluster: local\nparallel: 2\n"
        "gpus: {fake: {card: a FAKE card, memory_gib: 1, per_node: 6}}\n",
    )
    workflow.run(CUDA_VISIBLE_DEVICES="0,1,2,3,4,5")
    spans = []
    for name in "abcd":
        (begin, devices), (end,) = (line.split() for line in workflow.lines(f"{name}.txt"))
        spans.append((float(begin), float(end), set(devices.split(","))))
    together = [
        (first, second)
        for number, first in enumerate(spans)
        for second in spans[number + 1 :]
        if first[0] < second[1] and second[0] < first[1]
    ]
    assert together, "no two sessions ran at the same time"
    assert all(not first[2] & second[2] for first, second in together)
    assert all(len(devices) == 2 and devices < set("012345") for _, _, devices in spans)
    assert {line.split()[1] for line in workflow.lines("starts.log")} == {"0,1", "2,3"}
    most = max(sum(begin <= at[0] < end for begin, end, _ in spans) for at in spans)
    assert most == 2  # the site's ``parallel``; the GPUs would do for three


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ("gpu_type='cpu', gpus=3", "gpus: 3 of cpu, allowed: up to 2 (one node)"),
        ("gpu_type='H900', gpus=1", "gpu_type: 'H900' is not of site here, allowed: cpu, big"),
        ("gpu_type='big', gpus=4", "gpus: 4 of big, allowed: up to 2 (what this host has"),
        ("runtime=90, session='s', session_runtime=40", "runtime + session_runtime: 130, allowed"),
    ],
)
def test_what_cannot_be_had_is_an_error_and_no_hang(
    workflow: Workflow, resources: str, said: str
) -> None:
    workflow.write(
        f"rule cell:\n    output: 'x.txt'\n    resources: {resources}\n    shell: 'touch x.txt'\n",
        "name: here\ncluster: local\nmax_minutes: 120\n"
        "gpus: {cpu: {card: CPU, per_node: 2}, big: {card: FAKE, memory_gib: 1, per_node: 8}}\n",
    )
    assert said in workflow.run(ok=False, CUDA_VISIBLE_DEVICES="0,1")
    assert workflow.sessions() == []


@pytest.mark.parametrize(
    ("site", "said"),
    [
        ("name: a\ncluster: pbs\ngpus: {g: {card: c, per_node: 1}}", "cluster: 'pbs': "),
        ("name: a\ncluster: local\ngpus: {}", "site.yaml: gpus: {}: "),
        (
            "name: a\ncluster: slurm\naccount_env: NO_SUCH\ngpus: {g: {card: c, per_node: 1}}",
            "account_env: NO_SUCH is not set, allowed: an account",
        ),
    ],
)
def test_sites_that_cannot_be_used_are_refused_in_one_line(
    workflow: Workflow, site: str, said: str
) -> None:
    workflow.write("rule cell:\n    output: 'x.txt'\n    shell: 'touch x.txt'\n", site)
    output = workflow.run(ok=False)
    assert said in output
    assert "Traceback" not in output


SLOW = """
rule all:
    input: expand("{i}.txt", i=range(3))
rule cell:
    output: "{i}.txt"
    resources:
        session="s", session_command=COMMAND + " --stray strays", session_order=lambda w: int(w.i)
    shell:
        "trap 'sleep ${{SLOW_END:-0}}; cp $SESSION_DIR/cell_end_reason why; exit 1' TERM; "
        "if [ {wildcards.i} = 1 ]; then touch running; sleep 60 & wait; fi; touch {output}"
"""


def test_ctrl_c_waits_for_no_job(workflow: Workflow) -> None:
    workflow.write(SLOW)
    process = workflow.start(SLOW_END="2")
    wait_until((workflow.root / "running").exists)
    os.killpg(process.pid, signal.SIGINT)  # a terminal's: to all processes in the foreground
    process.communicate(timeout=30)  # the job that is cut off would sleep for 60 s
    assert process.returncode != 0
    assert workflow.lines("why") == ["cancelled"]
    assert mentioning(str(workflow.root)) == []
    assert (workflow.root / "0.txt").exists()


def test_errors_are_said_where_snakemake_is_quiet_about_rules(workflow: Workflow) -> None:
    workflow.write(
        """
rule all:
    input: expand("{i}.txt", i=range(3))
rule cell:
    output: "{i}.txt"
    resources:
        failure_record=lambda w: f"why/{w.i}.json", gpus=lambda w: "many" if w.i == "2" else 0
    shell: "test {wildcards.i} = 0 && touch {output} || (echo no such luck >&2; exit 7)"
"""
    )
    said = workflow.run("--keep-going", "--quiet", "rules", ok=False).splitlines()
    [ended] = [line for line in said if line.startswith("cell i=1: exit code 7 in session")]
    assert ended.endswith("ends: no such luck")
    [refused] = [line for line in said if line.startswith("cell i=2: ")]
    assert "gpus: 'many', allowed: a number" in refused
    record = json.loads((workflow.root / "why/2.json").read_text("utf-8"))
    assert (record["type"], record["log"]) == ("submit", "")


def test_nothing_outlives_a_killed_snakemake_for_long(workflow: Workflow) -> None:
    workflow.write(SLOW)
    process = workflow.start()
    wait_until((workflow.root / "running").exists)
    process.kill()
    process.communicate()
    wait_until(lambda: mentioning(str(workflow.root)) == [], 5)


def test_cells_of_a_killed_session_are_reported_not_lost(workflow: Workflow) -> None:
    workflow.write(SLOW)
    process = workflow.start("--keep-going")
    wait_until((workflow.root / "running").exists)
    (pid,) = workflow.root.glob(".snakemake/submitit/*/runner.pid")
    os.kill(int(pid.read_text()), signal.SIGKILL)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert said.count("Error in rule cell") == 2, said
    assert len(re.findall(r"session s-\w+ ended before this job did: crash", said)) == 2
    wait_until(lambda: mentioning(str(workflow.root)) == [], 5)


def test_a_nested_job_is_tried_as_often_as_its_rule_says(workflow: Workflow) -> None:
    workflow.write(
        """
rule fails:
    output: "x.txt"
    retries: 2
    run:
        open("attempts", "a").write("x\\n")
        raise ValueError("always")
"""
    )
    workflow.run(ok=False)
    assert len(workflow.lines("attempts")) == 3


def test_no_retries_on_the_command_line_go_before_a_rules_own(workflow: Workflow) -> None:
    workflow.write(
        """
rule fails:
    output: "x.txt"
    retries: 2
    shell: "echo x >> attempts; exit 1"
"""
    )
    workflow.run("--retries", "0", ok=False)
    assert len(workflow.lines("attempts")) == 1


def test_the_temporary_folder_of_the_node_reaches_a_shell_command(workflow: Workflow) -> None:
    workflow.write(
        """
rule a:
    output: "a.txt"
    shell: "echo {resources.tmpdir} > {output}"
"""
    )
    workflow.run(TMPDIR="/var/tmp")
    assert workflow.lines("a.txt") == ["/var/tmp"]


def test_sigterm_to_the_whole_group_is_said_to_be_the_users(workflow: Workflow) -> None:
    workflow.write(SLOW)
    process = workflow.start()
    wait_until((workflow.root / "running").exists)
    os.killpg(process.pid, signal.SIGTERM)
    said, _ = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "stopped by you: 1 jobs done, 2 left; the same command continues" in said
    assert "preempted" not in said
    assert workflow.lines("why") == ["cancelled"]
