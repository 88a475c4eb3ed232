"""Reading and writing settings: YAML, overrides, and errors that name the setting."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import ValidationError

from transip.config.base import Settings
from transip.config.migrate import RECIPE_MIGRATIONS, migrate
from transip.errors import InputError

AnySettings = TypeVar("AnySettings", bound=Settings)
FORMAT_KEY = "transip_format"  # of recipes that transip writes; those written by hand, without it, are of the newest


class _Loader(yaml.SafeLoader):
    """Safe YAML in which nothing is said twice: PyYAML would forget the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for name in names:
            if name != "<<" and names.count(name) > 1:
                raise ValueError(f"{name!r} stands there twice (line {node.start_mark.line + 1} and after)")
        return super().construct_mapping(node, deep)


def load(kind: type[AnySettings], path: str | Path, overrides: list[str] | None = None) -> AnySettings:
    """Read a YAML file as `kind`, with ``a.b=c`` overrides applied.

    Raises:
        InputError: the file is missing, not YAML or of a newer format, a key is unknown, or a value does not fit.
    """
    try:
        values = _Loader(Path(path).read_text(encoding="utf-8")).get_single_data()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(path)) from error
    except Exception as error:  # tags, dates and depth make PyYAML fail in many ways; none of them is a defect of ours
        raise InputError(f"is not YAML: {str(error) or type(error).__name__}", where=str(path)) from error
    if not isinstance(values, dict):
        raise InputError("is not a recipe: expected `key: value` lines", where=str(path))
    if FORMAT_KEY in values:
        values = migrate(values, values.pop(FORMAT_KEY), RECIPE_MIGRATIONS, str(path))
    for override in overrides or []:
        _apply(values, override)
    return parse(kind, values, str(path))


def dump(settings: Settings) -> str:
    """All of `settings` as YAML that `load` reads, with the number of the format."""
    values = {FORMAT_KEY: 1 + len(RECIPE_MIGRATIONS), **settings.model_dump(mode="json")}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def parse(kind: type[AnySettings], values: dict[str, Any], where: str) -> AnySettings:
    """Validate `values` as `kind`.

    Raises:
        InputError: a key is unknown (with the nearest known one) or a value does not fit.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        # a misspelt key also leaves the right one missing: name the cause, not the consequence
        problem = min(error.errors(), key=lambda entry: entry["type"] != "extra_forbidden")
        path = ".".join(str(key) for key in problem["loc"])
        if problem["type"] != "extra_forbidden":
            bare_word = problem["type"] == "string_type" and isinstance(problem["input"], bool)
            remedy = "write it in quotes: YAML takes words like NO and ON for true or false" if bare_word else ""
            message = problem["msg"].removeprefix("Value error, ")
            raise InputError(message, where=f"{where}, {path}", remedy=remedy) from None
        choices = _known_keys(kind, problem["loc"][:-1])
        closest = difflib.get_close_matches(str(problem["loc"][-1]), choices, 1)
        remedy = f"did you mean {closest[0]!r}?" if closest else f"known settings here: {', '.join(sorted(choices))}"
        raise InputError(f"unknown setting {path!r}", where=where, remedy=remedy) from None


def _apply(values: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals:
        raise InputError(f"override {override!r} has no '='", remedy="write --set training.steps=1000")
    *parents, last = path.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise InputError(f"override {override!r}: {parent!r} is a value, not a group of settings")
    try:
        values[last] = yaml.safe_load(text)
    except Exception as error:  # as above
        raise InputError(f"override {override!r}: the value is not YAML", remedy="quote it") from error


def _known_keys(kind: type[Settings], location: tuple[int | str, ...]) -> list[str]:
    for key in location:
        if isinstance(key, int):
            continue
        annotation = kind.model_fields[key].annotation
        if get_origin(annotation) is tuple:
            annotation = get_args(annotation)[0]
        if not (isinstance(annotation, type) and issubclass(annotation, Settings)):
            return []
        kind = annotation
    return list(kind.model_fields)
