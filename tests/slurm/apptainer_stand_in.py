#!/usr/bin/env python3
"""A stand-in for Apptainer, which cannot be installed everywhere: no container, but its rules.

An "image" is a folder with a ``bin``. Refused is what would fail in a real one: an unknown option,
a bind whose source is missing, and a program that uses a path which no bind shows. Linked as
``apptainer`` into a folder of the ``PATH``; each call is a line of JSON in
``$APPTAINER_STAND_IN_LOG``.
"""

import json
import os
import sys
from pathlib import Path


def main(words: list[str]) -> None:
    """Becomes the program, as the real one does."""
    with Path(os.environ["APPTAINER_STAND_IN_LOG"]).open("a") as log:
        log.write(json.dumps(words) + "\n")
    if words.pop(0) != "exec":
        sys.exit("stand-in: only exec is known")
    binds, folder = [], ""
    while words[0].startswith("--"):
        option = words.pop(0)
        if option == "--bind":
            binds.append(Path(words.pop(0).split(":")[0]))
        elif option == "--pwd":
            folder = words.pop(0)
        elif option != "--nv":
            sys.exit(f"stand-in: unknown option {option}")
    image = Path(words.pop(0))
    if not (image / "bin").is_dir():
        sys.exit(f"FATAL: could not open image {image}: no such file")
    for bind in binds:
        if not bind.exists():
            sys.exit(f"FATAL: mount {bind}: no such file or directory")
    inside = {k: v for k, v in os.environ.items() if not k.startswith("APPTAINERENV_")}
    for name, value in os.environ.items():
        if name.startswith("APPTAINERENV_"):
            inside[name.removeprefix("APPTAINERENV_")] = value
    used = [folder, inside.get("SESSION_DIR"), *inside.get("PYTHONPATH", "").split(os.pathsep)]
    for path in filter(None, used):
        if not any(Path(path).is_relative_to(bind) for bind in binds):
            sys.exit(f"FATAL: {path}: not in the container, no bind shows it")
    os.chdir(folder)
    os.execvpe(words[0], words, {**inside, "PATH": f"{image}/bin:{os.environ['PATH']}"})


if __name__ == "__main__":
    main(sys.argv[1:])
