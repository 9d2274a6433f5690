"""The registry: whatever is chosen by name, the pipeline's own and the competition's.

A name stands for a `"module:attribute"` that is imported when it is used. A table of names is written out, or it is
what the modules of a package are called (`modules_of`). An experiment's entry is `{name, params}`, or just the name.
What the pipeline passes to the callable is positional; its keyword-only parameters are what an experiment may set, and
`params` is checked against their annotations.
"""

import functools
import importlib
import inspect
import pkgutil
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, ValidationError, create_model, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from toolkit.errors import UserError, nearest

References = Mapping[str, Mapping[str, str]]  # kind -> name -> "module:attribute"


class Spec(BaseModel):
    """One by-name entry of an experiment. A plain string is short for an entry without params, or `scale:0.8` for one
    whose param `by` is 0.8."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    params: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        name, _, by = value.partition(":")
        return {"name": name, "params": {"by": by}} if by else {"name": value}

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        entry = dict(handler.resolve_ref_schema(handler(schema)))
        entry.pop("required", None)  # an experiment that extends another may give new params alone
        return {"anyOf": [{"type": "string"}, entry]}


class Registry:
    """All names by kind. A name of a later table replaces one of an earlier table."""

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

    def find(self, kind: str, name: str) -> Any:
        """Import what `name` stands for; an unknown name is a `UserError` with the nearest one."""
        if not self.has(kind, name):
            raise UserError(f"unknown {kind} '{name}'; {nearest(name, self.table.get(kind, {}))}")
        return load(self.table[kind][name], f"{kind} '{name}'")

    def resolve(self, kind: str, entry: Spec) -> Spec:
        """The same entry with every parameter checked and every default written out."""
        return Spec(name=entry.name, params=self.bind(kind, entry).keywords)

    def bind(self, kind: str, entry: Spec) -> "functools.partial[Any]":
        """The callable with its params bound; the pipeline calls it with the positional rest."""
        function = self.find(kind, entry.name)
        return functools.partial(function, **check_params(function, entry.params, f"{kind} '{entry.name}'"))


def modules_of(package: str, attribute: str) -> dict[str, str]:
    """A table of the modules of a package: each one's name stands for its `attribute`."""
    modules = pkgutil.iter_modules(importlib.import_module(package).__path__)
    return {module.name: f"{package}.{module.name}:{attribute}" for module in modules}


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
    settings = {each.name: each for each in parameters if each.kind is each.KEYWORD_ONLY}
    # The positional ones may be annotated with what is imported for type checkers only.
    annotated = {name: each.annotation for name, each in settings.items() if each.annotation is not each.empty}
    holder = types.SimpleNamespace(__annotations__=annotated)
    hints = typing.get_type_hints(holder, globalns=getattr(target, "__globals__", {}))
    fields: dict[str, Any] = {
        name: (hints.get(name, Any), ... if each.default is each.empty else each.default)
        for name, each in settings.items()
    }
    extra = "allow" if any(each.kind is each.VAR_KEYWORD for each in parameters) else "forbid"
    config = ConfigDict(extra=extra, arbitrary_types_allowed=True, protected_namespaces=())  # type: ignore[typeddict-item]
    checked = validated(create_model("Params", __config__=config, **fields), dict(params), where)
    return {name: getattr(checked, name) for name in [*fields, *(checked.model_extra or {})]}


Model = typing.TypeVar("Model", bound=BaseModel)


def validated(schema: type[Model], values: Any, where: str) -> Model:
    """Check values against a pydantic model.

    Raises:
        UserError: pydantic's first complaint in one line, with the nearest valid name for an unknown key.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        problems = error.errors(include_url=False)
    path = [str(part) for part in problems[0]["loc"]]
    key, message = ".".join(path), problems[0]["msg"].removeprefix("Value error, ")
    if problems[0]["type"] == "extra_forbidden":
        siblings = [".".join([*path[:-1], name]) for name in _fields_at(schema, path[:-1])]
        text = f"unknown setting '{key}'; {nearest(key, siblings)}"
    elif problems[0]["type"] == "missing":
        text = f"'{key}' is missing; give it a value"
    else:
        text = f"'{key}': {message[0].lower() + message[1:]} (it is {problems[0]['input']!r})" if key else message
    raise UserError(f"{where}: {text}" + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""))


def _fields_at(schema: type[BaseModel], path: list[str]) -> Iterable[str]:
    """The names of the settings below a key; positions in lists are skipped."""
    for part in [part for part in path if part in schema.model_fields]:
        annotations = [schema.model_fields[part].annotation]
        for annotation in annotations:  # which grows
            annotations += typing.get_args(annotation)
        groups = [each for each in annotations if inspect.isclass(each) and issubclass(each, BaseModel)]
        schema = groups[0] if groups else schema
    return schema.model_fields
