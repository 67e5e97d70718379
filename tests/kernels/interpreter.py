"""Triton's interpreter, without the parts of it that take most of its time and prove nothing here."""

from __future__ import annotations

import functools


def hasten() -> None:
    """Once in a process.

    It checks every integer for overflow; and at each call of a device function it replaces all of Triton's language anew,
    of which what a launch did not replace stays replaced from the first time on.
    """
    from triton.runtime import interpreter

    object.__setattr__(interpreter.interpreter_builder.options, "sanitize_overflow", False)
    replace_once = functools.cache(interpreter._patch_lang)

    def call(self, *arguments, **named):
        replace_once(self.fn)
        return self.rewrite()(*arguments, **named)

    interpreter.InterpretedFunction.__call__ = call
