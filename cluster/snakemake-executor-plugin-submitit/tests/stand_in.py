"""A stand-in for a session command: it measures nothing and loads nothing, it only comes up.

Usage: stand_in.py STARTS [--fail] [--hang] [--stray FILE]. Each start appends its SESSION_ID to
STARTS. ``--fail`` exits with 1 before it is ready, ``--hang`` is never ready, ``--stray`` leaves a
process in a session of its own whose parent is gone, and writes its pid to FILE.
"""

import argparse
import os
import sys
import time
from pathlib import Path


def leave_stray(file: Path) -> None:
    """Fork twice with setsid between, as daemons do."""
    first = os.fork()
    if first:
        os.waitpid(first, 0)
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    with file.open("a", encoding="utf-8") as pids:
        pids.write(f"{os.getpid()}\n")
    time.sleep(600)
    os._exit(0)


parser = argparse.ArgumentParser()
parser.add_argument("starts", type=Path)
parser.add_argument("--fail", action="store_true")
parser.add_argument("--hang", action="store_true")
parser.add_argument("--stray", type=Path)
options = parser.parse_args()
folder = Path(os.environ["SESSION_DIR"])
with options.starts.open("a", encoding="utf-8") as starts:
    starts.write(f"{os.environ['SESSION_ID']} {os.environ.get('CUDA_VISIBLE_DEVICES')}\n")
if options.stray:
    leave_stray(options.stray)
(folder / "pid").write_text(str(os.getpid()))
print(f"stand-in up, {len(list(folder.iterdir()))} files", flush=True)
if options.fail:
    sys.exit(1)
if not options.hang:
    (folder / "ready").touch()
time.sleep(600)
