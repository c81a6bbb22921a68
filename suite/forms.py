"""The form of each file of a record: what must be in it, and of which kind. Held against it where it is read.

A form is a kind of value (``str``, ``int``, ``float`` for any finite number, ``bool``, ``dict``), ``Some(form)``
where None is one too, ``[form]`` for a list, ``Named(form)`` for an object of any names, or a mapping of names to
forms: a name that ends in ``?`` may be missing, and names that a form does not have are let be.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from suite.files import damaged

Form: TypeAlias = Any


@dataclass(frozen=True)
class Some:
    form: Form


@dataclass(frozen=True)
class Named:
    form: Form


NUMBERS = [Some(float)]
MOST = sys.float_info.max

CELL = {
    "variant": str,
    "arguments": dict,
    "layers": [int],
    "seed": int,
    "dataset": str,
    "train": [str],
    "validation": str,
    "test": str,
    "protocol": {"steps": int, "batch_size": int},
    "model": dict,
    "start?": Some(dict),
    "keep?": Some([[int]]),
}

STUDY = {
    "name": str,
    "question": str,
    "engine": str,
    "dataset": {"name": str, "title": str, "splits": dict},
    "floors": {"question_prior": Some(float), "looked": Some(float)},
    "cells": [{"id": str, "role": str, "start": Some(str), "cell": CELL}],
    "comparisons?": [{"label": str, "base": str, "changed": str}],
    "searches?": [
        {
            "variant": str,
            "layers": [int],
            "trials": [str],
            "complete": bool,
            "winner": Some({"trial": str, "arguments": dict, "accuracy": Some(float), "cells": [str]}),
        }
    ],
}

CONFIG = {"id?": str, "cell?": dict, "start?": Some(str), "code?": {"engine?": str}}

RESULT = {
    "accuracy": Named(float),
    "official?": Some(Named(float)),
    "macs": float,
    "macs_reference": float,
    "uncounted_operators": Named(int),
    "parameters": float,
    "kept?": Some(Named([int])),
    "steps": int,
    "seconds": float,
    "native?": Named(str),
    "files?": Named(str),
}

FAILURE = {"kind?": str, "message": str, "where?": str, "log?": str}
STOPPED = {"step": int, "accuracy": float, "rung": float, "scheduler": dict}
LIVE = {"step": int, "steps": int, "questions_per_second": float}
TOLD = {"step": int}
COST = {"measurements": [{"device": str}]}

EXAMPLE = {
    "question_id": object,
    "image_id": object,
    "split": str,
    "text": str,
    "words": [str],
    "boxes": [[float]],
    "width": int,
    "height": int,
    "picture": str,
    "answers": Named(float),
    "top_answers": [str],
    "top_confidences": [float],
}

LINES: Mapping[str, Form] = {
    "metrics": {
        "step": int,
        "seconds?": float,
        "train_loss?": Some(float),
        "penalty?": float,
        "loss?": float,
        "accuracy?": float,
        "learning_rate?": Some(float),
    },
    "sites": {
        "step": int,
        "site": str,
        "stack": str,
        "queries": str,
        "keys": str,
        "index": int,
        "density?": NUMBERS,
    },
    "segments": {"step": int},
    "faults": {"step": int, "kind": str, "message": str},
    "submissions": {"split": str, "sha256": str},
    "server": {"split": str, "accuracy": float},
}


def check(path: Path | str, value: Any, form: Form) -> Any:
    """``value``, read from ``path`` (which may name a line too). Raises RecordError where it is not of the form."""
    if not _fits(form)(value) and (told := _fault(value, form, "")):
        raise damaged(Path(path), told)
    return value


_known: dict[int, tuple[Form, Callable[[Any], bool]]] = {}


def _fits(form: Form) -> Callable[[Any], bool]:
    """Whether a value is of the form, made once for each: a record has tens of thousands of lines."""
    if id(form) not in _known:
        _known[id(form)] = form, _made(form)
    return _known[id(form)][1]


def _made(form: Form) -> Callable[[Any], bool]:
    if isinstance(form, Some):
        inner = _fits(form.form)
        return lambda value: value is None or inner(value)
    if isinstance(form, list):
        each = _fits(form[0])
        return lambda value: type(value) is list and all(map(each, value))
    if isinstance(form, Named):
        named = _fits(form.form)
        return lambda value: type(value) is dict and all(map(named, value.values()))
    if isinstance(form, Mapping):
        fields: list[tuple[str, bool, Callable[[Any], bool]]] = []
        missing = object()

        def fits(value: Any) -> bool:
            if type(value) is not dict:
                return False
            if not fields:  # Not before: a form may hold itself.
                fields[:] = [(name.removesuffix("?"), name[-1] == "?", _fits(one)) for name, one in form.items()]
            for name, optional, inner in fields:
                one = value.get(name, missing)
                if (not optional) if one is missing else not inner(one):
                    return False
            return True

        return fits
    if form is float:
        return lambda value: type(value) in (float, int) and abs(value) <= MOST
    return lambda value: type(value) is form


def _fault(value: Any, form: Form, place: str) -> str:
    """What is wrong in a few words; nothing where it is right."""
    if isinstance(form, Some):
        return "" if value is None else _fault(value, form.form, place)
    if isinstance(form, list):
        if not isinstance(value, list):
            return _expected(place, "a list", value)
        return next(filter(None, (_fault(one, form[0], f"{place}[{n}]") for n, one in enumerate(value))), "")
    if isinstance(form, Named):
        if not isinstance(value, dict):
            return _expected(place, "an object", value)
        return next(filter(None, (_fault(one, form.form, f"{place}.{name}") for name, one in value.items())), "")
    if isinstance(form, Mapping):
        if not isinstance(value, dict):
            return _expected(place, "an object", value)
        for name, inside in form.items():
            bare = name.removesuffix("?")
            if bare not in value:
                if bare == name:
                    return f"it has no {f'{place}.{name}'.lstrip('.')}"
            elif told := _fault(value[bare], inside, f"{place}.{bare}"):
                return told
        return ""
    right = isinstance(value, form) if form is not float else isinstance(value, int | float)
    # Of what is not a number no comparison holds.
    if not right or (isinstance(value, bool) and form is not bool) or (form is float and not abs(value) <= MOST):
        words = {str: "a text", int: "a whole number", float: "a finite number", bool: "true or false"}
        return _expected(place, words.get(form, "an object"), value)
    return ""


def _expected(place: str, what: str, value: Any) -> str:
    return f"{place.lstrip('.')[:80] or 'it'} is expected to be {what}, and is {repr(value)[:60]}"
