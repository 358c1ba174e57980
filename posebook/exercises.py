"""What all checkers of exercises share: they ask a reader's function, and are shown to refuse wrong answers.

A checker is a function of one argument, the reader's function; it ends in an AssertionError whose text says what is
wrong, or it says nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch


def ask(function: Callable, *arguments: object, shape: tuple[int, ...] | None = None) -> Any:
    """Call a reader's function, and see that it answers and leaves what it was given as it was.

    Args:
        function: the reader's.
        arguments: arrays, tensors, and lists and dictionaries of them are given as copies (the chapter's own data are
            safe), and the copies must be unchanged afterwards. Everything else is given as it is.
        shape: of the numbers that are expected; () is one number. None: the answer may be anything.

    Returns:
        The answer: without `shape` just as it came, else a float64 array of that shape. Lists, tuples, arrays and
        tensors of any number type are equally right.

    Raises:
        AssertionError: saying in a sentence what is wrong with the answer.
    """
    given = [_copy(argument) for argument in arguments]
    answer = function(*given)
    for number, (was, now) in enumerate(zip(arguments, given, strict=True), start=1):
        assert _same(was, now), f"your function changes its argument number {number}: work on a copy"
    assert answer is not None, "your function returns nothing: is there a `return`?"
    if shape is None:
        return answer
    try:
        numbers = np.array(_plain(answer), dtype=np.float64)
    except (TypeError, ValueError):
        wanted = f"numbers of shape {shape}" if shape else "one number"
        raise AssertionError(f"{wanted} should come back, not {type(answer).__name__}: {answer!r:.60}") from None
    assert numbers.shape == shape, f"your answer has the shape {numbers.shape}, it should have {shape}"
    return numbers


def refuses(check: Callable[[Callable], None], *wrong: Callable) -> bool:
    """Does a checker refuse every one of these wrong answers, each with a sentence that says why?

    Raises:
        AssertionError: naming the answer that the checker accepts, or refuses without a word.
    """
    for answer in wrong:
        try:
            check(answer)
        except AssertionError as reason:
            assert str(reason), f"{check.__name__} refuses {_name(answer)}, but does not say why"
        else:
            raise AssertionError(f"{check.__name__} accepts {_name(answer)}, which is wrong")
    return len(wrong) > 0


def _name(answer: Callable) -> str:
    """How to call an answer in a message; a lambda by its place."""
    code = getattr(answer, "__code__", None)
    return f"{answer.__name__} (line {code.co_firstlineno})" if code else repr(answer)


def _plain(value: Any) -> Any:
    """The same numbers without tensors, which numpy takes one by one or, with a gradient, not at all."""
    if torch.is_tensor(value):
        return value.detach().cpu().numpy()
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def _copy(value: Any) -> Any:
    """A copy of arrays and tensors, in lists and dictionaries too; anything else itself."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if torch.is_tensor(value):
        return value.clone() if value.requires_grad else value.detach().clone()
    if isinstance(value, dict):
        return {key: _copy(part) for key, part in value.items()}
    return type(value)(map(_copy, value)) if type(value) in (list, tuple) else value


def _same(was: Any, now: Any) -> bool:
    """Is a copy still like its original? NaN equals NaN; what is not copied is not looked at."""
    if torch.is_tensor(was):
        was, now = was.detach().cpu().numpy(), now.detach().cpu().numpy()
    if isinstance(was, np.ndarray):
        return np.array_equal(was, now, equal_nan=was.dtype.kind in "fc")
    if isinstance(was, dict):
        return list(was) == list(now) and all(_same(part, now[key]) for key, part in was.items())
    if type(was) in (list, tuple):
        return len(was) == len(now) and all(map(_same, was, now))
    return was == now if isinstance(was, int | float | str) and was == was else True
