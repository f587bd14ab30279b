"""The factory of another's model: how it is imported, and the options that it takes.

All of it runs the factory's code: whoever calls has made sure that it may. The options are declared
by the annotation of the factory's argument `options`, a pydantic model or a dataclass. An
`ExperimentConfig` holds them as JSON values, so that it can be read where that code may not run.
"""

import dataclasses
import importlib
import inspect
import json
import traceback
from collections.abc import Callable
from types import NoneType
from typing import Any, cast, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from trainer.config import strict
from trainer.config.experiment import ExperimentConfig
from trainer.config.fields import Section, kinds_of, refused
from trainer.config.kinds import FACTORIES
from trainer.config.model_settings import ModelConfig
from trainer.config.recipe import OPTIONS, experiment_from
from trainer.errors import InputError
from trainer.outside import shortened

#: What the options of a factory begin with, on the command line.
OPTIONS_FLAG = f"--{OPTIONS}."
_NAME = "options"
#: How a factory comes to take options.
TAKES_OPTIONS = (
    "give it a third argument `options`, annotated with a pydantic model or a dataclass (see "
    "trainer/README.md, Other recurrent models)"
)


def imported(factory: str) -> Callable[..., Any]:
    """Import a factory, ``package:build``.

    Raises:
        InputError: it cannot be imported, or cannot be called.
    """
    package, _, name = factory.partition(":")
    try:
        build = getattr(importlib.import_module(package), name)
    except (Exception, SystemExit) as error:  # an imported module runs any code it likes
        raise InputError(f"{named(factory)} cannot be imported: {told(error)}") from error
    if not callable(build):
        raise InputError(f"{named(factory)} is a {type(build).__name__}, which builds nothing")
    return cast(Callable[..., Any], build)


def named(factory: str) -> str:
    """Return what errors call a factory, or the kind that it builds."""
    kinds = {builder: kind for kind, builder in FACTORIES.items()}
    if factory in kinds:
        return f"model.kind {kinds[factory]}"
    return f"model.factory {shortened(factory)}"


def told(error: BaseException) -> str:
    """Describe an error, with the line of code that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"


def experiment_type(factory: str | None) -> type[ExperimentConfig]:
    """Return the class of the experiments of a factory, whose options are fields like others.

    Raises:
        InputError: the factory cannot be imported, or its options are no settings.
    """
    section = None if factory is None else _section_of(factory)
    if section is None:
        return ExperimentConfig
    options: Any = Field({}, description="the factory's own options", validate_default=True)
    model = create_model("ModelConfig", __base__=ModelConfig, options=(section, options))
    return create_model(
        "ExperimentConfig", __base__=ExperimentConfig, model=(model, refused(..., "the network"))
    )


def with_options(experiment: ExperimentConfig, *, where: str) -> ExperimentConfig:
    """Return an experiment with all options of its factory, checked; `where` names its source.

    Raises:
        InputError: the factory does not take these options, or cannot be imported.
    """
    factory = experiment.model.builder
    if factory is None:
        return experiment
    schema = experiment_type(factory)
    if schema is ExperimentConfig:
        _refuse_options(experiment.model)
        return experiment
    options = _checked(experiment, schema, where=where).model.model_dump(mode="json")[_NAME]
    model = experiment.model.model_copy(update={_NAME: options})
    return experiment.model_copy(update={"model": model})


def _checked(
    experiment: ExperimentConfig, schema: type[ExperimentConfig], *, where: str
) -> ExperimentConfig:
    factory = experiment.model.builder
    assert factory is not None
    try:
        return experiment_from(experiment.model_dump(mode="json"), where=where, schema=schema)
    except InputError:
        raise
    except Exception as error:  # the options' own checks are any code
        raise InputError(f"the options of {named(factory)} fail: {told(error)}") from error


def options_for(config: ModelConfig, build: Callable[..., Any]) -> dict[str, Any]:
    """Return the argument `options` for the factory of `config`; none if it takes none.

    Raises:
        InputError: the configuration's options are not the factory's.
    """
    assert config.builder is not None
    section = _section_of(config.builder)
    if section is None:
        _refuse_options(config)
        return {}
    try:
        options = section.model_validate_json(json.dumps(config.options), strict=True)
    except ValidationError as error:
        problems = "; ".join(strict.describe(error, section))
        raise InputError(f"model.options of {named(config.builder)}: {problems}") from None
    kind = _annotation(build, config.builder)
    is_model = issubclass(kind, BaseModel)
    return {_NAME: options if is_model else kind(**dict(options))}


def _refuse_options(config: ModelConfig) -> None:
    """Refuse options for a factory that takes none."""
    if config.options:
        assert config.builder is not None
        names = ", ".join(f"model.options.{shortened(name)[1:-1]}" for name in config.options)
        raise InputError(
            f"{named(config.builder)} takes no options, and {names} is given: {TAKES_OPTIONS}, or "
            "leave them out"
        )


def _annotation(build: Callable[..., Any], factory: str) -> Any:
    """Return the class that a factory's argument `options` is annotated with; None without one."""
    try:
        parameters = inspect.signature(build, eval_str=True).parameters
    except (TypeError, ValueError):  # a builtin that tells none
        return None
    except Exception as error:  # an annotation is any code
        raise InputError(f"{named(factory)} cannot be read: {told(error)}") from error
    if _NAME not in parameters:
        return None
    kind = parameters[_NAME].annotation
    is_class = isinstance(kind, type)
    if not is_class or not (issubclass(kind, BaseModel) or dataclasses.is_dataclass(kind)):
        raise InputError(f"{named(factory)} does not say what its options are: {TAKES_OPTIONS}")
    return kind


def _section_of(factory: str) -> type[BaseModel] | None:
    """Return the section of the settings that a factory's options are; None if it takes none."""
    kind = _annotation(imported(factory), factory)
    if kind is None:
        return None
    try:
        section = _of_model(kind) if issubclass(kind, BaseModel) else _of_dataclass(kind)
    except Exception as error:  # an annotation that pydantic does not know, and any code
        raise InputError(f"the options of {named(factory)} are no settings: {told(error)}") from (
            error
        )
    for name, field in section.model_fields.items():
        for kind in kinds_of(field.annotation):
            if not isinstance(kind, str) and kind not in (bool, int, float, str, NoneType, ...):
                raise InputError(
                    f"the option {name} of {named(factory)} is a {shortened(field.annotation)}, "
                    "which a command line cannot say: use bool, int, float, str, a Literal of "
                    "strings, or a tuple of them"
                )
    return section


class _Strict(Section):
    """A section whose defaults are checked, too."""

    model_config = ConfigDict(validate_default=True)


def _of_model(kind: type[BaseModel]) -> type[BaseModel]:
    given = {"model_config": ConfigDict(frozen=False), "__module__": __name__}
    return type(kind.__name__, (kind, _Strict), given)


def _of_dataclass(kind: type[Any]) -> type[BaseModel]:
    hints = get_type_hints(kind, include_extras=True)
    fields: dict[str, Any] = {
        field.name: (hints[field.name], _default(field))
        for field in dataclasses.fields(kind)
        if field.init
    }

    def built(self: BaseModel) -> BaseModel:
        """Run the checks that the dataclass does when it is made."""
        kind(**dict(self))
        return self

    checks: dict[str, Any] = {"built": model_validator(mode="after")(built)}
    return create_model(
        kind.__name__,
        __base__=_Strict,
        __validators__=checks,
        **fields,
    )


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return Field(default_factory=field.default_factory)
    return ... if field.default is dataclasses.MISSING else field.default
