"""The converter between the model and JSON."""

from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args, get_origin

import attrs
import orjson
from cattrs.gen import make_dict_structure_fn
from cattrs.preconf.orjson import OrjsonConverter, make_converter

from runtimed.errors import InvalidJson, printable
from runtimed.model.event import InFlightBlock, Payload, TextSegment
from runtimed.model.worker import Intent, ProfileSelector
from runtimed.wire import json
from runtimed.wire.problems import FieldProblem, expected, first_problem
from runtimed.wire.tagging import Tagging, configure_tagging

T = TypeVar("T")

TAGGED: dict[Any, Tagging] = {
    Intent: Tagging("kind"),
    ProfileSelector: Tagging("kind", content="value", bare=True),
    InFlightBlock: Tagging("kind"),
    Payload: Tagging("event", content="data"),
}
"""The tagging of every union of the contract."""

_NAMES: dict[type, str] = {str: "a string", int: "a whole number", bool: "a boolean", dict: "an object"}


def make_strict_converter(*, explaining: bool, allows_unknown: bool = False) -> OrjsonConverter:
    """Make a converter for the whole model. It accepts only values of the exact JSON type.

    Null counts as unset for an optional field.

    Args:
        explaining: Let errors name the field of the problem. Such a converter is slower.
        allows_unknown: Ignore unknown fields, as clients do: a newer daemon may add optional fields to any object.
    """
    made = make_converter(omit_if_default=True, forbid_extra_keys=not allows_unknown, detailed_validation=explaining)
    for kind in (str, int, bool):
        made.register_structure_hook(kind, _only(kind))
    made.register_structure_hook(float, _number)
    made.register_structure_hook_factory(is_kind(Literal), _one_of)
    made.register_structure_hook_factory(is_kind(dict), lambda t: _object_of(made, t))
    made.register_structure_hook_factory(is_kind(tuple), lambda t: _array_of(made, t))
    made.register_structure_hook_factory(attrs.has, lambda t: _fields_of(made, t))
    made.register_unstructure_hook_func(is_kind(dict), lambda value: value)
    for union, tagging in TAGGED.items():
        configure_tagging(made, union, tagging)
    _tag_segments(made)
    return made


def is_kind(origin: Any) -> Callable[[Any], bool]:
    """Return a predicate for cattrs: whether a type is a generic of this origin."""
    return lambda kind: get_origin(kind) is origin


def _only(kind: type) -> Callable[[Any, Any], Any]:
    def structure(value: Any, _type: Any) -> Any:
        if type(value) is not kind:
            raise expected(_NAMES[kind], value)
        return value

    return structure


def _number(value: Any, _type: Any) -> float:
    if type(value) not in {int, float}:
        raise expected("a number", value)
    return float(value)


def _one_of(kind: Any) -> Callable[[Any, Any], Any]:
    accepted = get_args(kind)

    def structure(value: Any, _type: Any) -> Any:
        if type(value) is str and value in accepted:
            return value
        raise FieldProblem(f"expected one of {', '.join(accepted)}")

    return structure


def _object_of(converter: OrjsonConverter, kind: Any) -> Callable[[Any, Any], Any]:
    inner = get_args(kind)[1]

    def structure(value: Any, _type: Any) -> Any:
        if type(value) is not dict:
            raise expected("an object", value)
        if inner is not Any:
            for name, item in value.items():
                _inside(converter, item, inner, name)
        return value

    return structure


def _array_of(converter: OrjsonConverter, kind: Any) -> Callable[[Any, Any], Any]:
    inner = get_args(kind)[0]

    def structure(value: Any, _type: Any) -> Any:
        if type(value) is not list:
            raise expected("an array", value)
        return tuple([_inside(converter, item, inner, index) for index, item in enumerate(value)])

    return structure


def _inside(converter: OrjsonConverter, item: Any, kind: Any, place: str | int) -> Any:
    """Structure an item of an object or an array. A problem carries the item's name or index."""
    try:
        return converter.structure(item, kind)
    except Exception as error:
        raise first_problem(error).within(f"[{place}]" if isinstance(place, int) else place) from error


def _fields_of(converter: OrjsonConverter, kind: Any) -> Callable[[Any, Any], Any]:
    explaining = converter.detailed_validation
    strict = converter.forbid_extra_keys
    load = make_dict_structure_fn(
        kind, converter, _cattrs_forbid_extra_keys=strict, _cattrs_detailed_validation=explaining
    )
    optional = {field.name for field in attrs.fields(kind) if field.default is not attrs.NOTHING}

    def structure(value: Any, type_: Any) -> Any:
        if type(value) is not dict:
            raise expected("an object", value)
        if None in value.values():
            value = {name: item for name, item in value.items() if item is not None or name not in optional}
        return load(value, type_)

    return structure


def _tag_segments(made: OrjsonConverter) -> None:
    load, dump = made.get_structure_hook(TextSegment), made.get_unstructure_hook(TextSegment)

    def structure(value: Any, type_: Any) -> Any:
        if type(value) is not dict or value.get("kind") != TextSegment.kind:
            raise FieldProblem(f"expected {TextSegment.kind}", "kind")
        return load({name: inner for name, inner in value.items() if name != "kind"}, type_)

    made.register_structure_hook(TextSegment, structure)
    made.register_unstructure_hook(TextSegment, lambda value: {"kind": value.kind, **dump(value)})


converter = make_strict_converter(explaining=False)
_explaining = make_strict_converter(explaining=True)
_dump_payload = converter.get_unstructure_hook(Payload)


def structure(value: Any, kind: type[T]) -> T:
    """Convert a JSON value into a value of the model.

    Raises:
        FieldProblem: The value does not fit the model.
    """
    try:
        return converter.structure(value, kind)
    except Exception:  # noqa: BLE001 the explaining converter meets the same problem
        return _explained(value, kind)


def _explained(value: Any, kind: type[T]) -> T:
    try:
        return _explaining.structure(value, kind)
    except Exception as error:
        raise first_problem(error) from error


def decode(body: bytes, kind: type[T]) -> T:
    """Parse the JSON body of a request or a response into a value of the model.

    Raises:
        InvalidJson: The body is not JSON or does not fit the model. It names the path of the first problem.
    """
    try:
        return structure(json.parse(body), kind)
    except FieldProblem as problem:
        raise InvalidJson(problem.problem, printable(problem.path)) from problem


def encode(value: Any, kind: Any = None) -> bytes:
    """Return a value of the model as JSON.

    Args:
        value: The value.
        kind: The union that it belongs to, so that its tag is written, or None.
    """
    return orjson.dumps(converter.unstructure(value, kind))


def restore(data: bytes, kind: type[T]) -> T:
    """Return the value in JSON that `encode` wrote.

    Raises:
        ValueError: `encode` cannot have written the JSON.
    """
    try:
        return structure(orjson.loads(data), kind)
    except ValueError as error:
        raise ValueError(f"not a {getattr(kind, '__name__', kind)}: {error}") from error


def encode_payload(payload: Payload) -> bytes:
    """Return the `payload` of an envelope as JSON.

    Raises:
        TypeError: A text has a lone surrogate, so it cannot be encoded.
    """
    # A copy, because payloads are kept: the bytes that orjson returns hold a buffer of at least 4 KB.
    return bytes(memoryview(orjson.dumps(_dump_payload(payload))))


def restore_payload(data: bytes) -> Payload:
    """Return the payload in JSON that `encode_payload` wrote."""
    return restore(data, Payload)  # type: ignore[arg-type]
