"""Every setting of a command resolved: the command line over the file over the defaults.

A setting is a field of :class:`sparsefl.fl.experiment.Setting` or of its schedule, or one of the
few that are the command line's own. Options of a method stand in its table of the file, and on the
command line as ``METHOD.OPTION``; ``run``, which has one method, also takes the option's bare name.
Those of a named model are ``model.OPTION``, or a table ``[model]`` with the model's ``name`` in it.
"""

import argparse
import dataclasses
import importlib
import pathlib
import sys
import typing
from collections.abc import Mapping
from typing import Any

from sparsefl.cli import config
from sparsefl.cli.settings import DEFAULTS, FLAGS, SWITCHES
from sparsefl.cli.values import convert, convertible, to_text
from sparsefl.messages import one_line
from sparsefl.names import COMPARED, LINEAR, METHODS, ROWS

# Settings that are no field of Setting or Schedule, with their types.
_OWN = {
    "method": str,
    "methods": list[str],
    "seeds": list[int],
    "plots": bool,
    "csv": bool,
    "tensorboard": bool,
}
_ALIASES = {"data": "dataset", "seed": "seeds"}
# What an own data set or an own model brings itself.
_BROUGHT = {
    "dataset": ("data_dir", "clients", "partition", "dev_examples", "public_examples"),
    "model": ("norm",),
}
# Table of the model's options; its name is among them, because TOML has no second "model".
_MODEL, _NAME = "model", "name"
_FLAG_NAMES = (*FLAGS, *SWITCHES, *_ALIASES, "method", "methods", "lr")

_Table = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a command is to do.

    Attributes:
        setting: A :class:`sparsefl.fl.experiment.Setting`.
        methods: The method of ``run``, the rows of ``compare``.
        seeds: One run of every method for each.
        options: Options that were given, by method.
        plots: Whether plots are drawn.
        values: All of it and all defaults, as ``config.toml`` holds it.
    """

    setting: Any
    methods: list[str]
    seeds: list[int]
    options: dict[str, _Table]
    plots: bool
    values: _Table


def resolve(args: argparse.Namespace, command: str) -> Plan:
    """Lay the command line over the file over the defaults of ``run`` or ``compare``.

    Raises:
        ValueError: if a setting, a method or an option is unknown, comes twice or has no such
            value; the message names the nearest known one.
    """
    experiment = importlib.import_module("sparsefl.fl.experiment")
    kinds = _OWN | _fields(experiment.Setting)
    own = pathlib.Path(args.out) / config.FILE
    path = own if args.resume and args.config is None and own.is_file() else args.config
    file = {} if path is None else config.read(path)
    line = _given(args)
    method = line.get("method", file.get("method")) if command == "run" else None
    values: _Table = dict(DEFAULTS[command])
    tables: dict[str, _Table] = {}
    for layer in (file, line):
        plain, options = _sort(layer, kinds, method)
        _refuse_brought(plain, values | plain)
        if plain.get("device", "cpu") != "cpu":
            plain.setdefault("memory", False)  # processes on the CPU are measured
        values |= plain
        for name, table in options.items():
            tables[name] = tables.get(name, {}) | table
    values = {name: convert(name, value, kinds[name]) for name, value in values.items()}
    if not values["seeds"] or len({*values["seeds"]}) < len(values["seeds"]):
        raise ValueError(f"seeds must be different, at least one, got {to_text(values['seeds'])}")
    methods = _methods(command, values)
    values["model_options"] = _model_options(values[_MODEL], tables.pop(_MODEL, {}))
    known = (*methods, _MODEL)
    unused = [name for name in _sort(line, kinds, method)[1] if name not in known]
    if unused:
        raise ValueError(f"{unused[0]} is not among the methods, {', '.join(methods)}")
    options = {name: _parse_options(name, table) for name, table in tables.items()}
    if values.get("dataset") is None:
        values["dataset"] = _default_dataset(values.get("data_dir"))
    setting = _build(experiment.Setting, values)
    resolved = _resolved(setting, values, {name: options.get(name, {}) for name in methods})
    return Plan(setting, methods, values["seeds"], options, values["plots"], resolved)


def _given(args: argparse.Namespace) -> _Table:
    """Return what the command line says, flags and ``--set`` together.

    Raises:
        ValueError: if one setting comes twice.
    """
    given = {}
    for name in _FLAG_NAMES:
        value = getattr(args, name, None)
        if value is not None:
            given[name] = value
    for name, value in config.parse_pairs(args.set).items():
        if name in given:
            raise ValueError(f"{name} comes twice, as a flag and by --set")
        given[name] = value
    return given


def _sort(
    layer: Mapping[str, Any], kinds: Mapping[str, Any], method: str | None
) -> tuple[_Table, dict[str, _Table]]:
    """Divide one layer into settings, and options by method."""
    plain: _Table = {}
    options: dict[str, _Table] = {}
    for key, value in layer.items():
        owner, dot, option = key.partition(".")
        if dot or isinstance(value, Mapping):
            if owner not in (*ROWS, _MODEL):
                raise ValueError(f"no method {owner!r}{config.nearest(owner, ROWS)}")
            options.setdefault(owner, {}).update({option: value} if dot else value)
            if owner != _MODEL or _NAME not in options[_MODEL]:
                continue
            key, value = _MODEL, options[_MODEL].pop(_NAME)
        name = _ALIASES.get(key, key)
        if name in plain:
            raise ValueError(f"{name} comes twice, the second time as {key}")
        if name in kinds:
            plain[name] = value
        elif method in ROWS and name in _defaults_of(str(method)):
            options.setdefault(str(method), {})[name] = value
        else:
            raise ValueError(_unknown(key, kinds, method))
    return plain, options


def _model_options(model: str, given: Mapping[str, Any]) -> _Table:
    """Return the options of a named model, refused by name where it has none such."""
    models = importlib.import_module("sparsefl.models")
    for key in given:
        if ":" in model:
            raise ValueError(f"{model} is your own model: model.{key} has no meaning for it")
        known = models.options_of(model)
        if key not in known:
            hint = config.nearest(key, known) if known else "; it has none"
            raise ValueError(f"model {model!r} has no option {key!r}{hint}")
    return dict(given)


def _unknown(key: str, kinds: Mapping[str, Any], method: str | None) -> str:
    known = {*kinds, *_ALIASES, *(_defaults_of(method) if method in ROWS else ())}
    hint = config.nearest(key, known)
    # One of those that a comparison has anyway, where there is one.
    owners = [row for row in (*ROWS, *COMPARED) if key in _defaults_of(row)]
    if owners:
        hint = f"; as an option of a method it is {owners[-1]}.{key}"
    models = importlib.import_module("sparsefl.models")
    if any(key in models.options_of(name) for name in models.NAMES):
        hint = f"; as an option of the model it is {_MODEL}.{key}"
    return f"no setting {key!r}{hint}"


def _defaults_of(row: str | None) -> Mapping[str, Any]:
    """Return a method's options and their defaults; ``linear`` has FedAvg's."""
    load_method = importlib.import_module("sparsefl.fl.method").load_method
    defaults: Mapping[str, Any] = load_method("fedavg" if row == LINEAR else row).defaults
    if row == LINEAR:
        defaults = {**defaults, **importlib.import_module("sparsefl.fl.experiment").LINEAR_OPTIONS}
    return defaults


def _parse_options(row: str, given: Mapping[str, Any]) -> _Table:
    """Parse options by the types of their defaults."""
    known = _defaults_of(row)
    for key in given:
        if key not in known:
            raise ValueError(f"{row} has no option {key!r}{config.nearest(key, known)}")
    load_method = importlib.import_module("sparsefl.fl.method").load_method
    pairs = [
        (key, to_text(value))
        for key, value in given.items()
        if known[key] is not None or value != config.NONE
    ]
    options: _Table = load_method("fedavg" if row == LINEAR else row).parse_options(pairs)
    return options


def _methods(command: str, values: Mapping[str, Any]) -> list[str]:
    if command == "run" and "method" not in values:
        raise ValueError("run needs a METHOD, on the command line or in the file")
    named = [values["method"]] if command == "run" else values["methods"]
    known = METHODS if command == "run" else ROWS
    for name in named:
        if name not in known:
            raise ValueError(f"no method {name!r}{config.nearest(name, known)}")
    return list(dict.fromkeys(named))


def _refuse_brought(given: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Refuse settings that an own data set or model leaves without a meaning."""
    for what, names in _BROUGHT.items():
        wrong = [name for name in names if name in given]
        if wrong and ":" in str(values.get(what)):
            raise ValueError(f"{values[what]} is your own {what}: {wrong[0]} has no meaning for it")


def _fields(kind: type) -> _Table:
    """Return the types of a dataclass's fields by name, those of dataclasses in it included."""
    fields: _Table = {}
    for name, hint in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint):
            fields |= _fields(typing.cast(type, hint))
        elif convertible(hint):
            fields[name] = hint
    return fields


def _build(kind: type, values: Mapping[str, Any]) -> Any:
    """Build a dataclass, and the dataclasses in it, from flat values; the rest is default."""
    hints = typing.get_type_hints(kind)
    arguments = {name: values[name] for name in hints if name in values}
    for name, hint in hints.items():
        if dataclasses.is_dataclass(hint):
            arguments[name] = _build(typing.cast(type, hint), values)
    return kind(**arguments)


def _resolved(
    setting: Any, values: Mapping[str, Any], options: Mapping[str, Mapping[str, Any]]
) -> _Table:
    """Return what ``config.toml`` holds: all that determines the run, defaults included."""
    flat = {name: values[name] for name in _OWN if name in values}
    for record in (setting, setting.schedule):
        flat |= {
            field.name: getattr(record, field.name)
            for field in dataclasses.fields(record)
            if not dataclasses.is_dataclass(getattr(record, field.name))
        }
    if flat["threads"] is None:
        flat["threads"] = importlib.import_module("torch").get_num_threads()
    for what, names in _BROUGHT.items():
        if ":" in flat[what]:
            flat = {name: value for name, value in flat.items() if name not in names}
    if model_options := flat.pop("model_options"):
        flat[_MODEL] = {_NAME: flat[_MODEL], **model_options}
    return flat | {row: {**_defaults_of(row), **given} for row, given in options.items()}


def _default_dataset(data_dir: str | None) -> str:
    """Return Fashion-MNIST; without its files the digits take its place, aloud."""
    try:
        importlib.import_module("sparsefl.data").locate("fashion-mnist", data_dir)
    except FileNotFoundError as error:
        if data_dir is not None:
            raise
        print(f"sparsefl: the UCI digits take its place: {one_line(error)}", file=sys.stderr)
        return "digits"
    return "fashion-mnist"
