"""Replacing functions of transformers, and putting them back."""

import importlib
import inspect
import types
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import transformers

from bitloom import UserError

from .forms import Form, fingerprint, original_of
from .models import MODELS, Model

_ABSENT = object()
_ours: dict[Callable, Callable] = {}  # replacements in classes and modules, to what transformers had there
_live: weakref.WeakSet = weakref.WeakSet()  # of Patch: those that may be undone yet


@dataclass
class _Change:
    owner: object
    name: str
    before: object  # what undo() puts back
    after: object


class Patch:
    """What one call of apply_bitloom_to_... replaced. Also a context manager, which undoes it at the end."""

    def __init__(self):
        self._changes: list[_Change] = []
        _live.add(self)

    def _set(self, owner: object, name: str, value: object) -> None:
        self._changes.append(_Change(owner, name, vars(owner).get(name, _ABSENT), value))
        setattr(owner, name, value)

    def undo(self) -> None:
        """Puts back what was there before. What has been replaced again since stays, until that is undone. Twice is
        once."""
        while self._changes:
            change = self._changes.pop()
            _ours.pop(change.after, None)
            if vars(change.owner).get(change.name) is change.after:
                if change.before is _ABSENT:
                    delattr(change.owner, change.name)
                else:
                    setattr(change.owner, change.name, change.before)
            for other in (other for patch in _live for other in patch._changes):
                if other.before is change.after and other.owner is change.owner and other.name == change.name:
                    other.before = change.before

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.undo()


def _refuse(model: Model, what: str) -> UserError:
    return UserError(f"apply_bitloom_to_{model.name}: {what} (transformers {transformers.__version__})")


def _found(model: Model, module: types.ModuleType, target: str) -> tuple[object, str, Callable]:
    """Where a form's target is: (class or module, name, the function there now)."""
    place, _, name = target.rpartition(":" if ":" in target else ".")
    if ":" in target:
        owner = importlib.import_module(place)
    else:
        owner = getattr(module, model.prefix + place, None) if place else module
    function = getattr(owner, name, None)
    if function is None:
        raise _refuse(model, f"expected {_name(model, target)} in {model.module}, found none")
    return owner, name, function


def _name(model: Model, target: str) -> str:
    return target if ":" in target or "." not in target else model.prefix + target


def _replacement(model: Model, module: types.ModuleType, form: Form) -> Callable:
    """What form puts in its target's place, once all of its sources are ones that it knows."""
    for target, known in form.sources.items():
        function = _found(model, module, target)[2]
        if fingerprint(original_of(_ours.get(function, function))) not in known:
            raise _refuse(model, f"expected {_name(model, target)} as in a release that bitloom knows, got another")
    function = _found(model, module, form.target)[2]
    return form.replacement(_ours.get(function, function))


def _patch_classes(patch: Patch, model: Model, module: types.ModuleType, form: Form) -> None:
    owner, name, current = _found(model, module, form.target)
    replacement = _replacement(model, module, form)
    _ours[replacement] = _ours.get(current, current)
    patch._set(owner, name, replacement)


def _with_global(function: Callable, name: str, value: object) -> Callable:
    """The function with another meaning of one of its module's names. Without __name__ among its globals, torch.compile
    looks names up in them and not in the module."""
    names = {key: item for key, item in function.__globals__.items() if key != "__name__"}
    copy = types.FunctionType(function.__code__, names | {name: value}, function.__name__, function.__defaults__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _patch_instance(patch: Patch, model: Model, module: types.ModuleType, form: Form, instance) -> int:
    """Returns how many modules it changed."""
    replacement = _replacement(model, module, form)
    owner, name, _ = _found(model, module, form.target)
    if owner is module:  # a function that the attention calls by its global name
        owner, _, attention = _found(model, module, "Attention.forward")
        if name not in attention.__code__.co_names:
            raise _refuse(model, f"expected {owner.__name__}.forward to call {name}, it does not")
        name, replacement = "forward", _with_global(attention, name, replacement)
    parts = [part for part in instance.modules() if type(part) is owner]
    for part in parts:
        form.check(part)
        patch._set(part, name, types.MethodType(replacement, part))
    return len(parts)


def apply(model: Model, options: dict[str, bool], instance=None) -> Patch:
    """Replaces, in the model's classes or in one instance of them, what the options say. All of it or nothing."""
    try:
        module = importlib.import_module(model.module)
    except ImportError as error:
        raise _refuse(model, f"expected a transformers with {model.module}, got {error}") from error
    patch = Patch()
    try:
        for option, forms in model.options.items():
            if not options[option]:
                continue
            for form in forms:
                if instance is None:
                    _patch_classes(patch, model, module, form)
                elif not _patch_instance(patch, model, module, form, instance):
                    raise _refuse(
                        model,
                        f"argument {option}: expected a model with a {model.prefix}{form.target.partition('.')[0]}, "
                        f"got {type(instance).__name__}",
                    )
    except BaseException:
        patch.undo()
        raise
    return patch


def applier(model: Model) -> Callable:
    """The function apply_bitloom_to_<name>."""
    names = list(model.options)

    def function(*, model: object = None, **options: bool) -> Patch:
        for option in options:
            if option not in names:
                raise TypeError(f"{function.__name__}() got an unexpected keyword argument '{option}'")
        return apply(row, dict.fromkeys(names, True) | options, model)

    row = model
    function.__name__ = function.__qualname__ = f"apply_bitloom_to_{model.name}"
    function.__doc__ = f"""Makes {model.prefix} models of transformers run on bitloom's kernels.

    model: the one instance to change, by default every one, made before or afterwards. The options, all on by default,
    say what is replaced: {", ".join(names)}.
    Returns a Patch, whose undo() puts back what was there.
    Raises UserError where the model or the release of transformers is not as bitloom knows it; then nothing is changed.
    """
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter(name, keyword, default=True, annotation=bool) for name in names]
    parameters.append(inspect.Parameter("model", keyword, default=None))
    function.__signature__ = inspect.Signature(parameters, return_annotation=Patch)
    return function


def apply_bitloom(model, **options: bool) -> Patch:
    """Makes one model run on bitloom's kernels, by its config.model_type.

    options: as those of apply_bitloom_to_<model>. Returns a Patch. Raises UserError for a model that bitloom does not
    know, TypeError for an option that the model does not have.
    """
    kind = getattr(getattr(model, "config", None), "model_type", None)
    for row in MODELS.values():
        if kind in (row.types or (row.name,)):
            return applier(row)(model=model, **options)
    known = ", ".join(kind for row in MODELS.values() for kind in row.types or (row.name,))
    raise UserError(f"apply_bitloom: argument model: expected one of {known}, got {kind or type(model).__name__}")
