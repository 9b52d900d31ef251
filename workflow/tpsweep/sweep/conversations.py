"""Chat data as people have it, brought into the form that vLLM's ShareGPT reader takes.

Two forms: ``conversations`` of turns with ``from`` and ``value`` (ShareGPT), ``messages`` of turns
with ``role`` and ``content``. Every list of turns may begin with a system turn.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

_CHUNK = 1 << 20
_FORMS = (("conversations", "from", "value"), ("messages", "role", "content"))
_NO_LIST = "it is not a list of conversations; allowed: JSON in ShareGPT's format"
FORMAT = (
    'allowed: {"conversations": [{"from": "human", "value": ...}, ...]} or '
    '{"messages": [{"role": "user", "content": ...}, ...]}'
)


def check(path: Path, count: int) -> None:
    """That a file has the form, and ``count`` conversations of two turns or more.

    As much of it is read as that takes: such files are large. Raises ``ValueError``, one line,
    and ``OSError``.
    """
    with path.open("rb") as file:
        if not file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
            raise ValueError(_NO_LIST)
        file.seek(max(0, path.stat().st_size - 4096))
        if not file.read().rstrip().endswith(b"]"):
            raise ValueError("truncated: its list does not end; allowed: a complete ShareGPT file")
    usable = (turns for turns in map(_turns_of, _numbered(path)) if len(turns) >= 2)
    found = len(list(islice(usable, count)))
    if found < count:
        raise ValueError(
            f"it has {found} conversations of two turns or more, num_prompts asks for {count}"
        )


def converted(path: Path) -> list[dict[str, Any]] | None:
    """All conversations in ShareGPT's form, with system turns put before what they precede; None
    if the file is of this form already. Raises ``ValueError``, one line."""
    found, changed = [], False
    for number, entry in _numbered(path):
        turns = _turns_of((number, entry))
        changed = changed or "conversations" not in entry or _has_system(entry["conversations"])
        found.append({"conversations": [{"from": "", "value": text} for text in turns]})
    return found if changed else None


def _has_system(turns: list[dict[str, Any]]) -> bool:
    return any(turn.get("from") == "system" for turn in turns)


def _turns_of(numbered: tuple[int, Any]) -> list[str]:
    """The texts of a conversation's turns, a system turn joined to the next one."""
    number, entry = numbered
    where = f"conversation {number}"
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is {json.dumps(entry)[:60]}; {FORMAT}")
    form = next((form for form in _FORMS if form[0] in entry), None)
    if form is None:
        raise ValueError(f"{where} has {', '.join(map(str, entry))[:60] or 'nothing'}; {FORMAT}")
    key, who, what = form
    turns = entry[key]
    if not isinstance(turns, list):
        raise ValueError(f"{where}: {key}: {json.dumps(turns)[:60]}; {FORMAT}")
    texts, waiting = [], ""
    for turn in turns:
        if not isinstance(turn, dict) or what not in turn:
            raise ValueError(f"{where}: a turn is {json.dumps(turn)[:60]}; {FORMAT}")
        text = _text(turn[what], where)
        if turn.get(who) in ("system", "developer"):
            waiting += text + "\n\n"
            continue
        texts.append(waiting + text)
        waiting = ""
    return texts


def _text(content: Any, where: str) -> str:
    """A turn's text; that of its parts if it has several (OpenAI's form); none for a call."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    raise ValueError(f"{where}: a turn's text is {json.dumps(content)[:60]}; {FORMAT}")


def _numbered(path: Path) -> Iterator[tuple[int, Any]]:
    return enumerate(_entries(path), 1)


def _entries(path: Path) -> Iterator[Any]:
    """The elements of the file's list, one after the other."""
    decoder = json.JSONDecoder()
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        text = file.read(_CHUNK).lstrip()
        if not text.startswith("["):
            raise ValueError(_NO_LIST)
        text = text[1:]
        while True:
            text = text.lstrip(", \t\r\n")
            if text.startswith("]"):
                return
            try:
                element, end = decoder.raw_decode(text)
            except json.JSONDecodeError as error:
                more = file.read(_CHUNK)
                if not more:
                    raise ValueError(f"not JSON: {error}") from None
                text += more
                continue
            yield element
            text = text[end:]
