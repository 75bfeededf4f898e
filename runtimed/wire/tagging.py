"""Tagged unions for cattrs, in both forms of the contract: the tag beside the fields, or beside one content field."""

import functools
import operator
from collections.abc import Callable
from typing import Any, get_args

import attrs
from cattrs import Converter

from runtimed.wire.problems import FieldProblem, expected, first_problem


@attrs.frozen
class Tagging:
    """How the members of one union are distinguished in JSON.

    Attributes:
        tag: The name of the field with the tag, and of the class attribute that holds its value.
        content: The name of the field that holds a member's fields, or None to put them beside the tag. The field is
            absent for a member without fields.
        bare: The content is the value of the member's only field.
    """

    tag: str
    content: str | None = None
    bare: bool = False

    def members(self, union: Any) -> dict[str, type]:
        """Return the members of a union by tag."""
        return {getattr(member, self.tag): member for member in get_args(union)}


def configure_tagging(converter: Converter, union: Any, tagging: Tagging) -> None:
    """Register hooks with the converter that read and write one union."""
    by_tag = tagging.members(union)
    load = _content_loader(converter, tagging) if tagging.content else _beside_loader(converter, tagging)

    def structure(value: Any, _type: Any) -> Any:
        if type(value) is not dict:
            raise expected("an object", value)
        if tagging.tag not in value:
            raise FieldProblem("required, but missing", tagging.tag)
        name = value[tagging.tag]
        member = by_tag.get(name) if isinstance(name, str) else None
        if member is None:
            raise FieldProblem(f"expected one of {', '.join(by_tag)}", tagging.tag)
        return load(value, member)

    converter.register_structure_hook(union, structure)
    converter.register_unstructure_hook(union, _dumper(converter, tagging))


def _beside_loader(converter: Converter, tagging: Tagging) -> Callable[[dict[str, Any], type], Any]:
    def load(value: dict[str, Any], member: type) -> Any:
        return converter.structure({k: v for k, v in value.items() if k != tagging.tag}, member)

    return load


def _content_loader(converter: Converter, tagging: Tagging) -> Callable[[dict[str, Any], type], Any]:
    content = tagging.content or ""

    def load(value: dict[str, Any], member: Any) -> Any:
        fields = attrs.fields(member)
        known = {tagging.tag, content} if fields or value.get(content) is None else {tagging.tag}
        for name in value if converter.forbid_extra_keys else ():
            if name not in known:
                raise FieldProblem("unknown field", name)
        if not fields:
            return member()
        if content not in value:
            raise FieldProblem("required, but missing", content)
        try:
            if tagging.bare:
                return member(converter.structure(value[content], fields[0].type))
            return converter.structure(value[content], member)
        except Exception as error:
            raise first_problem(error).within(content) from error

    return load


def _dumper(converter: Converter, tagging: Tagging) -> Callable[[Any], dict[str, Any]]:
    tag, content = tagging.tag, tagging.content

    @functools.cache
    def of(member: Any) -> tuple[str, Callable[[Any], Any] | None]:
        fields = attrs.fields(member)
        if not fields:
            return getattr(member, tag), None
        inner = operator.attrgetter(fields[0].name) if tagging.bare else converter.get_unstructure_hook(member)
        return getattr(member, tag), inner

    def dump(value: Any) -> dict[str, Any]:
        name, inner = of(value.__class__)
        if inner is None:
            return {tag: name}
        return {tag: name, content: inner(value)} if content else {tag: name, **inner(value)}

    return dump
