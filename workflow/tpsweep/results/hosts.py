"""Which machine measured a row: by the UUIDs of its GPUs where its name does not say.

Slurm's node names are unique at a site. Elsewhere a name says little (every rented machine may be
``vm``), while a GPU is in one machine: rows that share a GPU, or whose GPUs were seen together, are
of one host, and rows of equal names that nothing ties together are of two.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_SHOWN = 8
"""Digits of a UUID that tell hosts of one name apart."""
Token = tuple[str, ...]
"""What ties rows together: a GPU, or a name that is unique."""


@dataclass(frozen=True)
class Host:
    """A machine: its site, its name, and the UUIDs of all GPUs that its rows know of.

    Its rows have one name, unless it is a container's: then the first one stands for all.
    """

    site: str | None
    name: str
    gpus: tuple[str, ...]


def label_hosts(rows: Sequence[Mapping[str, Any]]) -> list[str | None]:
    """A label of each row's host, in the order of ``rows``; None for a row without a host name.

    ``rows`` have columns ``site``, ``hostname``, ``slurm_job_id``, ``gpu_uuids`` and
    ``node_gpu_uuids``. Equal labels: one host. The label is the host's name, followed by the start
    of its first GPU's UUID (else by its site) if another host has the same name. Rows that are to
    be told apart must be given together.
    """
    hosts = find_hosts(rows)
    same_name: dict[str, list[Host]] = defaultdict(list)
    for host in dict.fromkeys(host for host in hosts if host is not None):
        same_name[host.name].append(host)
    labels = {
        host: _label(host) if len(group) > 1 else host.name
        for group in same_name.values()
        for host in group
    }
    return [None if host is None else labels[host] for host in hosts]


def find_hosts(rows: Sequence[Mapping[str, Any]]) -> list[Host | None]:
    """The host of each row, in the order of ``rows``; None for a row without a host name."""
    groups = _Groups()
    for row in rows:
        groups.join(_tokens(row))
    members: dict[Token, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        if found := _tokens(row):
            members[groups.of(found[0])].append(row)
    hosts = {root: _host(group) for root, group in members.items()}
    by_name: dict[Token, set[Host]] = defaultdict(set)
    for host in hosts.values():
        by_name[_name(host.site, host.name)].add(host)
    return [
        hosts[groups.of(found[0])] if (found := _tokens(row)) else _by_name_alone(row, by_name)
        for row in rows
    ]


class _Groups:
    """Sets of tokens that belong together; joining and asking take nearly constant time."""

    def __init__(self) -> None:
        self._parents: dict[Token, Token] = {}

    def of(self, token: Token) -> Token:
        """One token for all that belong together."""
        self._parents.setdefault(token, token)
        while self._parents[token] != token:
            self._parents[token] = self._parents[self._parents[token]]
            token = self._parents[token]
        return token

    def join(self, tokens: Sequence[Token]) -> None:
        """From now on ``tokens`` belong together."""
        for token in tokens[1:]:
            self._parents[self.of(token)] = self.of(tokens[0])


def _tokens(row: Mapping[str, Any]) -> list[Token]:
    """What ties a row to others; empty if nothing but a name that need not be unique."""
    if row["hostname"] is None:
        return []
    found: list[Token] = [("gpu", uuid) for uuid in _uuids(row)]
    if row["slurm_job_id"] is not None:
        found.append(_name(row["site"], row["hostname"]))
    return found


def _uuids(row: Mapping[str, Any]) -> Iterator[str]:
    for name in ("gpu_uuids", "node_gpu_uuids"):
        if row[name] is not None:
            yield from (str(uuid) for uuid in row[name])


def _host(rows: list[Mapping[str, Any]]) -> Host:
    gpus = sorted({uuid for row in rows for uuid in _uuids(row)})
    return Host(rows[0]["site"], rows[0]["hostname"], tuple(gpus))


def _by_name_alone(row: Mapping[str, Any], by_name: Mapping[Token, set[Host]]) -> Host | None:
    """A row without GPUs and Slurm is of the host that has its name, if there is one only."""
    if row["hostname"] is None:
        return None
    known = by_name.get(_name(row["site"], row["hostname"]), set())
    return next(iter(known)) if len(known) == 1 else Host(row["site"], row["hostname"], ())


def _name(site: str | None, name: str) -> Token:
    return ("name", site or "", name)


def _label(host: Host) -> str:
    if host.gpus:
        return f"{host.name} ({host.gpus[0].removeprefix('GPU-')[:_SHOWN]})"
    return f"{host.name} ({host.site})"
