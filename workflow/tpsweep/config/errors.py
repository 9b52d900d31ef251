"""A mistake in config.yaml as one line: the key, its value, what is allowed."""

from __future__ import annotations

from pydantic_core import ErrorDetails

from tpsweep.config.places import places_of
from tpsweep.core.workloads import WORKLOADS

_VALUE_LIMIT = 120
_WORDS = {
    "dict_type": "allowed: a mapping",
    "model_type": "allowed: a mapping",
    "model_attributes_type": "allowed: a mapping",
    "missing": "missing: the key is required",
    "string_pattern_mismatch": 'allowed: a full version in quotes, such as "0.33.0"',
    "string_type": "allowed: text (quote it if it looks like a number)",
    "too_short": "allowed: at least 1 entry",
}
"""pydantic's words where they are those of Python, by its types of errors."""


class ConfigError(ValueError):
    """Something in config.yaml is not allowed; the message is one line."""

    def __init__(self, key: str, value: object, allowed: str) -> None:
        name = key if key.isprintable() else repr(key)[1:-1]
        said = f"config: {_short(name)}: {_short(repr(value))}: {' '.join(allowed.split())}"
        super().__init__(said)


def _short(text: str) -> str:
    return text if len(text) <= _VALUE_LIMIT else f"{text[:_VALUE_LIMIT]}..."


def of_pydantic(error: ErrorDetails, *above: str) -> ConfigError:
    """What pydantic found, in our words; ``above`` are the keys that lead to what it looked at."""
    path = [*above, *error["loc"]]
    if len(path) > 2 and path[0] == "workloads":
        del path[2]  # pydantic puts the kind there
    context, value, message = error.get("ctx", {}), error["input"], error["msg"]
    if error["type"] == "unknown_key":
        path.append(context["key"])
        value = value.get(context["key"], value) if isinstance(value, dict) else value
        if known := places_of(context["key"]):
            message = message.replace("key;", f"key here; known: {', '.join(known)};", 1)
    elif error["type"] == "missing":
        value = None
    elif error["type"].startswith("union_tag"):
        path.append("kind")
        value = value.get("kind") if isinstance(value, dict) else value
        message = f"allowed: {', '.join(WORKLOADS)}"
    if path and path[-1] == "[key]":
        del path[-1]
    message = _WORDS.get(error["type"], message)
    message = message.replace("Input should be a valid list", "allowed: a list, in [ ]")
    message = message.replace("Input should be", "allowed:")
    return ConfigError(".".join(map(str, path)) or "(top level)", value, message)
