"""JSON Schema of the model, generated from its types. The schema says what the converter accepts."""

import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import attrs

from runtimed.http.web.docstrings import Docstring
from runtimed.wire.converter import TAGGED
from runtimed.wire.tagging import Tagging

JsonSchema = dict[str, Any]

PRIMITIVES: dict[Any, JsonSchema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    Any: {},
}


class Schemas:
    """The component schemas of a document: each class of the model once, under its name."""

    def __init__(self) -> None:
        self.components: dict[str, JsonSchema] = {}

    def of(self, kind: Any) -> JsonSchema:
        """Return the schema of a type.

        Raises:
            TypeError: The wire has no such type.
        """
        kind = getattr(kind, "__supertype__", kind)
        if kind in TAGGED:
            return self._tagged(kind, TAGGED[kind])
        if kind in PRIMITIVES:
            return PRIMITIVES[kind]
        origin = get_origin(kind)
        if origin is Literal:
            return {"enum": list(get_args(kind))}
        if origin in {Union, types.UnionType}:
            return {"anyOf": [self.of(inner) for inner in get_args(kind)]}
        if origin is tuple:
            return {"type": "array", "items": self.of(get_args(kind)[0])}
        if origin is dict:
            return {"type": "object", "additionalProperties": self.of(get_args(kind)[1])}
        if isinstance(kind, type) and attrs.has(kind):
            return self._component(kind.__name__, kind)
        raise TypeError(f"no JSON schema for {kind!r}")

    def _component(self, name: str, kind: type, tag: tuple[str, str] | None = None) -> JsonSchema:
        if name not in self.components:
            self.components[name] = {}
            self.components[name] = self._object(kind, tag)
        return {"$ref": f"#/components/schemas/{name}"}

    def _object(self, kind: Any, tag: tuple[str, str] | None) -> JsonSchema:
        properties = self._properties(kind)
        required = [field.name for field in attrs.fields(kind) if field.default is attrs.NOTHING]
        constant = tag or _own_tag(kind)
        if constant is not None:
            properties = {constant[0]: {"const": constant[1]}, **properties}
            required = [constant[0], *required]
        return _closed(properties, required, Docstring.of(kind).prose)

    def _properties(self, kind: Any) -> JsonSchema:
        hints, descriptions = get_type_hints(kind, include_extras=True), _descriptions(kind)
        return {
            field.name: _described(self.of(hints[field.name]), descriptions.get(field.name, ""))
            for field in attrs.fields(kind)
        }

    def _tagged(self, union: Any, tagging: Tagging) -> JsonSchema:
        options = {name: self._option(name, member, tagging) for name, member in tagging.members(union).items()}
        mapping = {name: option["$ref"] for name, option in options.items()}
        return {
            "oneOf": list(options.values()),
            "discriminator": {"propertyName": tagging.tag, "mapping": mapping},
        }

    def _option(self, name: str, member: Any, tagging: Tagging) -> JsonSchema:
        if tagging.content is None:
            return self._component(member.__name__, member, (tagging.tag, name))
        title = member.__name__
        if title not in self.components:
            properties: JsonSchema = {tagging.tag: {"const": name}}
            if attrs.fields(member):
                content = self._object(member, None)
                properties[tagging.content] = next(iter(content["properties"].values())) if tagging.bare else content
            self.components[title] = _closed(properties, list(properties), Docstring.of(member).prose)
        return {"$ref": f"#/components/schemas/{title}"}


def _own_tag(kind: Any) -> tuple[str, str] | None:
    """Return the tag of a class that is in no union but has one."""
    if any(kind in get_args(union) for union in TAGGED):
        return None
    return ("kind", kind.kind) if isinstance(getattr(kind, "kind", None), str) else None


def _descriptions(kind: type) -> dict[str, str]:
    """Return the descriptions of the fields of a class, those that it inherits too."""
    return {name: text for base in reversed(kind.__mro__) for name, text in Docstring.of(base).attributes.items()}


def _described(schema: JsonSchema, description: str) -> JsonSchema:
    return {"description": description, **schema} if description else schema


def _closed(properties: JsonSchema, required: list[str], description: str) -> JsonSchema:
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    if required:
        schema["required"] = required
    return _described(schema, description)
