"""nsys and its importer, by stand-ins that check their arguments: CI has no Nsight Systems."""

import json
import lzma
from pathlib import Path

import pytest

from tpsweep.cli.comm import run
from tpsweep.engine import nsys_tools
from tpsweep.traces import CaptureError, analyse

DATA = Path(__file__).parents[2] / "data/captures"
EXPORT = DATA / "llama8b-tp2-bs1-h200x2.sqlite.xz"


class Installation:
    """A folder laid out like Nsight Systems 2025's, with stand-ins for its two programs."""

    def __init__(self, root: Path) -> None:
        self.nsys = root / "target-linux-x64/nsys"
        self.importer = root / "linux-desktop-glibc_2_11_3-x64/QdstrmImporter"
        real = root / "real.sqlite"
        real.parent.mkdir(parents=True)
        real.write_bytes(lzma.decompress(EXPORT.read_bytes()))
        self.program(
            self.nsys,
            '[ "$1" = --version ] && echo "NVIDIA Nsight Systems version 2025.3.1.90-253" && exit\n'
            '[ "$1 $2 $3 $4" = "export --type=sqlite --force-overwrite=true --output" ] || exit 9\n'
            f'[ -f "$6" ] || exit 8\n/bin/cp "{real}" "$5"',
        )
        self.program(
            self.importer,
            '[ "$1" = -i ] && [ "$3" = -o ] && [ -f "$2" ] || exit 9\n'
            'case $4 in *.nsys-rep) ;; *) exit 8;; esac\necho report > "$4"',
        )

    @staticmethod
    def program(path: Path, body: str) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    monkeypatch.setenv("PATH", "")
    found = Installation(tmp_path / "nsight systems")
    monkeypatch.setenv(nsys_tools.VARIABLE, str(found.nsys))
    return found


def test_the_variable_comes_before_the_path(
    installed: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "bin/nsys"
    installed.program(other, "exit 1")
    monkeypatch.setenv("PATH", str(other.parent))
    assert nsys_tools.find_nsys() == installed.nsys
    monkeypatch.delenv(nsys_tools.VARIABLE)
    assert nsys_tools.find_nsys() == other
    monkeypatch.setenv("PATH", "")
    assert nsys_tools.find_nsys() is None


@pytest.mark.parametrize("named", ["/nowhere/nsys", "/"])
def test_a_variable_that_names_no_program(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(nsys_tools.VARIABLE, named)
    assert nsys_tools.find_nsys() is None
    with pytest.raises(CaptureError, match=f"TPSWEEP_NSYS: '{named}' is not a program"):
        nsys_tools.export_sqlite(tmp_path / "a.nsys-rep", tmp_path / "a.sqlite")


def test_version(installed: Installation) -> None:
    assert nsys_tools.version(installed.nsys) == "2025.3.1"
    installed.program(installed.nsys, "echo something else")
    with pytest.raises(CaptureError, match="--version: no version in 'something else'"):
        nsys_tools.version(installed.nsys)


def test_importer_is_found_through_links(
    installed: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "bin/nsys"
    link.parent.mkdir()
    link.symlink_to(installed.nsys)
    assert nsys_tools.find_importer(link) == installed.importer
    assert nsys_tools.find_importer(None) is None
    installed.program(link.with_name("QdstrmImporter"), "exit 1")
    monkeypatch.setenv("PATH", str(link.parent))
    assert nsys_tools.find_importer(link) == link.with_name("QdstrmImporter")


def test_importer_of_a_package_in_two_halves(tmp_path: Path) -> None:
    nsys = tmp_path / "lib/x86_64-linux-gnu/nsight-systems/target-linux-x64/nsys"
    importer = tmp_path / "lib/nsight-systems/host-linux-x64/QdstrmImporter"
    for program in (nsys, importer):
        program.parent.mkdir(parents=True)
        Installation.program(program, "exit 1")
    assert nsys_tools.find_importer(nsys) == importer
    importer.chmod(0o644)
    assert nsys_tools.find_importer(nsys) is None


@pytest.mark.parametrize("name", ["with space.nsys-rep", "with space.qdstrm"])
def test_reports_and_streams_are_analysed(
    name: str, installed: Installation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capture = tmp_path / name
    capture.write_bytes(b"a stand-in for a capture")
    (tmp_path / "with space.json").write_text('{"tp": 2, "link": "NV18"}')
    assert run([capture], None, as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["phases"]["decode"]["steps"] == 15
    assert sorted(file.name for file in tmp_path.glob("with*")) == ["with space.json", name]


def test_a_report_beside_its_export_counts_once(tmp_path: Path) -> None:
    export = tmp_path / "a.sqlite"
    export.write_bytes(lzma.decompress(EXPORT.read_bytes()))
    report = tmp_path / "a.nsys-rep"
    report.write_bytes(b"not even read")
    assert analyse([report, export]).ranks == 2


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("echo broken report >&2; exit 1", "nsys export failed: broken report"),
        ("exit 0", "nsys export wrote no file"),
        ("exit 3", "nsys export failed: exit 3"),
        (
            "echo 'nsys: error while loading shared libraries: libdw.so.1: no such file' >&2; "
            "exit 127",
            "LD_LIBRARY_PATH",
        ),
    ],
)
def test_failures_are_one_line(
    body: str,
    words: str,
    installed: Installation,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    installed.program(installed.nsys, body)
    report = tmp_path / "a.nsys-rep"
    report.write_bytes(b"report")
    assert run([report], None, as_json=True) == 2
    printed = capsys.readouterr().err
    assert words in printed and printed.count("\n") == 1 and "a.nsys-rep" in printed


def test_a_failed_import_leaves_nothing(installed: Installation, tmp_path: Path) -> None:
    installed.program(installed.importer, 'echo half > "$4"; echo no room >&2; exit 1')
    stream = tmp_path / "a.qdstrm"
    stream.write_bytes(b"stream")
    with pytest.raises(CaptureError, match="QdstrmImporter failed: no room"):
        nsys_tools.import_qdstrm(stream, tmp_path / "a.nsys-rep")
    assert [file.name for file in tmp_path.glob("a.*")] == ["a.qdstrm"]


def test_a_program_that_hangs_is_ended(
    installed: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed.program(installed.nsys, "exec /bin/sleep 60")
    monkeypatch.setattr(nsys_tools, "TIMEOUT_S", 0.2)
    with pytest.raises(CaptureError, match="hung"):
        nsys_tools.export_sqlite(tmp_path / "a.nsys-rep", tmp_path / "a.sqlite")
