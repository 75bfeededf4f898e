"""Read config bundles from JSON, YAML or TOML files."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from runtimectl.client.requests import read_stdin
from runtimectl.errors import UsageProblem
from runtimed.model.bundle import ConfigBundle
from runtimed.model.digest import bundle_digest
from runtimed.wire import json
from runtimed.wire.converter import structure
from runtimed.wire.envelopes import PutBundleRequest
from runtimed.wire.problems import FieldProblem

TOO_DEEP = f"nested too deeply: expected at most {json.MAX_DEPTH} levels"
MAX_BYTES = 64 << 20

Json = dict[str, Any]


def read_bundle(name: str) -> tuple[Json, str]:
    """Read a bundle and compute its digest.

    Args:
        name: The path of a file, whose suffix tells the format, or `-` for stdin.

    Returns:
        The bundle and the digest of its content. A bundle without a digest gets an empty one.

    Raises:
        UsageProblem: The file cannot be read, or is not a bundle. The message names the field.
    """
    where = "stdin" if name == "-" else name
    try:
        return _checked(_parsed(name))
    except FieldProblem as problem:
        field = f"{problem.path}: " if problem.path else ""
        raise UsageProblem(f"{where}: {field}{problem.problem}") from None


def _parsed(name: str) -> Any:
    if name == "-":
        return _parse_any(read_stdin())
    parse = _PARSERS.get(Path(name).suffix.lower(), _parse_any)
    try:
        with Path(name).open("rb") as file:
            found = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageProblem(f"{name}: {error.strerror}") from None
    if len(found) > MAX_BYTES:
        raise UsageProblem(f"{name}: expected at most {MAX_BYTES} bytes")
    return parse(found)


def _parse_any(found: bytes) -> Any:
    for parse in (json.parse, _parse_toml):
        try:
            return parse(found)
        except FieldProblem:
            continue
    return _parse_yaml(found)


def _checked(value: Any) -> tuple[Json, str]:
    wrapped = value if isinstance(value, dict) and set(value) == {"bundle"} else {"bundle": value}
    _add_empty_digest(wrapped["bundle"])
    return wrapped["bundle"], bundle_digest(_typed(wrapped))


def _add_empty_digest(bundle: Any) -> None:
    metadata = bundle.get("metadata") if isinstance(bundle, dict) else None
    if isinstance(metadata, dict):
        metadata.setdefault("digest", "")


def _typed(wrapped: Json) -> ConfigBundle:
    return structure(wrapped, PutBundleRequest).bundle


def _parse_toml(found: bytes) -> Any:
    try:
        return tomllib.loads(found.decode())
    except ValueError as error:
        raise FieldProblem(f"expected TOML: {error}") from None
    except RecursionError:
        raise FieldProblem(TOO_DEEP) from None


def _parse_yaml(found: bytes) -> Any:
    try:
        return yaml.load(found, _Loader)  # noqa: S506 a SafeLoader with fewer types
    except (yaml.YAMLError, ValueError) as error:
        raise FieldProblem(f"expected YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise FieldProblem(TOO_DEEP) from None


class _Loader(yaml.SafeLoader):
    """Loads timestamps as text, and refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        if len(found) != len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "duplicate key", node.start_mark)
        return found


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}

_PARSERS: dict[str, Callable[[bytes], Any]] = {
    ".json": json.parse,
    ".toml": _parse_toml,
    ".yaml": _parse_yaml,
    ".yml": _parse_yaml,
}
