"""By-name entries: whatever an experiment chooses by name, the pipeline's own and the competition's.

An entry is `{name, params}`, or just the name. The name stands for a `"module:attribute"` that is imported when it is
used. What the pipeline passes to the callable is positional; its keyword-only parameters are what an experiment may
set, and `params` is checked against their annotations.
"""

import functools
import importlib
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, ValidationError, create_model, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from toolkit.errors import UserError, nearest

References = Mapping[str, Mapping[str, str]]  # kind -> name -> "module:attribute"


class Named(BaseModel):
    """One by-name entry of an experiment. A plain string is short for an entry without params."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    params: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        entry = dict(handler.resolve_ref_schema(handler(schema)))
        entry.pop("required", None)  # an experiment that extends another may give new params alone
        return {"anyOf": [{"type": "string"}, entry]}


class Names:
    """All names by kind. A name of the competition's replaces one of the pipeline's."""

    def __init__(self, *tables: References) -> None:
        self.table: dict[str, dict[str, str]] = {}
        for references in tables:
            for kind, names in references.items():
                self.table.setdefault(kind, {}).update(names)

    def has(self, kind: str, name: str) -> bool:
        """Whether `name` is known as a `kind`."""
        return name in self.table.get(kind, {})

    def knows(self, kind: str) -> bool:
        """Whether there is any `kind`."""
        return kind in self.table

    def find(self, kind: str, name: str) -> Callable[..., Any]:
        """Import what `name` stands for; an unknown name is a `UserError` with the nearest one."""
        known = self.table.get(kind, {})
        if name not in known:
            raise UserError(f"unknown {kind} '{name}'; {nearest(name, known)}")
        return load(known[name], f"{kind} '{name}'")

    def resolve(self, kind: str, entry: Named) -> Named:
        """The same entry with every parameter checked and every default written out."""
        function = self.find(kind, entry.name)
        return Named(name=entry.name, params=check_params(function, entry.params, f"{kind} '{entry.name}'"))

    def bind(self, kind: str, entry: Named) -> Callable[..., Any]:
        """The callable with its params bound; the pipeline calls it with the positional rest."""
        function = self.find(kind, entry.name)
        return functools.partial(function, **check_params(function, entry.params, f"{kind} '{entry.name}'"))


def load(reference: str, what: str) -> Any:
    """Import `"module:attribute"`."""
    module, _, attribute = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise UserError(f"{what} needs the package '{error.name}', which is not installed; install it") from error
        raise UserError(f"{what}: there is no module '{error.name}' ({reference}); correct the registration") from error
    except AttributeError as error:
        raise UserError(f"{what}: '{module}' has no '{attribute}'; correct the registration") from error


def check_params(function: Callable[..., Any], params: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Check `params` against the keyword-only parameters of `function` and fill in the defaults.

    Raises:
        UserError: an unknown parameter (the nearest one is named), a missing one, or one of the wrong type.
    """
    target = function.__init__ if inspect.isclass(function) else function  # type: ignore[misc]
    parameters = inspect.signature(target).parameters.values()
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    settings = [parameter for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    # The positional ones may be annotated with what is imported for type checkers only.
    annotated = {setting.name: setting.annotation for setting in settings if setting.annotation is not setting.empty}
    holder = types.SimpleNamespace(__annotations__=annotated)
    hints = typing.get_type_hints(holder, globalns=getattr(target, "__globals__", {}))
    fields: dict[str, Any] = {
        setting.name: (hints.get(setting.name, Any), ... if setting.default is setting.empty else setting.default)
        for setting in settings
    }
    schema = create_model(
        "Params",
        __config__=ConfigDict(
            extra="allow" if takes_any else "forbid", arbitrary_types_allowed=True, protected_namespaces=()
        ),
        **fields,
    )
    try:
        checked = schema.model_validate(dict(params))
    except ValidationError as error:
        raise UserError(f"{where}: {explain(error, schema)}") from error
    return {name: getattr(checked, name) for name in [*fields, *(checked.model_extra or {})]}


def explain(error: ValidationError, schema: type[BaseModel]) -> str:
    """The first complaint of pydantic in one line, with the nearest valid name for an unknown key."""
    problems = error.errors(include_url=False)
    first = problems[0]
    parts = [str(part) for part in first["loc"]]
    path = ".".join(parts)
    if first["type"] == "extra_forbidden":
        siblings = [".".join([*parts[:-1], name]) for name in _fields_at(schema, parts[:-1])]
        text = f"unknown setting '{path}'; {nearest(path, siblings)}"
    elif first["type"] == "missing":
        text = f"'{path}' is missing; give it a value"
    elif first["type"] in ("model_type", "model_attributes_type"):
        text = f"'{path}': settings as `key: value` are expected (it is {first['input']!r})"
    else:
        message = first["msg"].removeprefix("Value error, ")
        text = f"'{path}': {message[0].lower() + message[1:]} (it is {first['input']!r})"
    return text + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")


def _fields_at(schema: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        field = schema.model_fields.get(part)
        inner = next(_models(field.annotation), None) if field else None
        schema = inner or schema
    return list(schema.model_fields)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    for argument in typing.get_args(annotation):
        yield from _models(argument)
