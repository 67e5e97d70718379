"""The feature affinity loss between hidden layers of any two networks, named as PyTorch names modules."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

from torch import Tensor, nn

from .ops.affinity import FeatureAffinityLoss


class HookedAffinityLoss:
    """Records what named modules of two networks put out, and compares their affinities.

    Run both networks as usual, then call this without arguments: it returns the sum of the losses over all pairs of layers,
    of the latest outputs, and lets go of these. A module's output is a tensor [B, C, H, W] or [B, N, C], or a tuple that
    begins with one. Copies of a network do not record. Checkpointed layers need `use_reentrant=False`.

    Args:
        teacher, student: any modules. Only forward hooks are added to them; `remove`, or leaving a `with` block, removes
            these again.
        layers: names of the teacher's modules and of the student's to compare, as `named_modules` gives them.
        options: those of `feature_affinity_loss`. Pools are None unless given: each pair is brought to its common grid.

    Raises:
        ValueError: for a name that the network does not have, with those that come near, and for no layers at all.

    Example:
        >>> affinity = famkern.HookedAffinityLoss(teacher, student, {"layer3": "body.7"}, scale="rms")
        >>> with torch.no_grad():
        ...     teacher(clear)
        >>> loss = task_loss(student(hazy), clear) + 0.25 * affinity()
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        layers: Mapping[str, str] | Iterable[tuple[str, str]],
        **options: Any,
    ) -> None:
        self.layers = _pairs(layers)
        self.loss = FeatureAffinityLoss(**{"teacher_pool": None, "student_pool": None, **options})
        names = [list(dict.fromkeys(pair[side] for pair in self.layers)) for side in (0, 1)]
        modules = [
            {name: _module(whose, network, name) for name in wanted}
            for whose, network, wanted in zip(("teacher", "student"), (teacher, student), names, strict=True)
        ]
        self._taps = [{name: _Tap() for name in of} for of in modules]
        self._handles = [
            module.register_forward_hook(taps[name])
            for of, taps in zip(modules, self._taps, strict=True)
            for name, module in of.items()
        ]

    def __call__(self) -> Tensor:
        """The loss of what was recorded since the last call.

        Raises:
            RuntimeError: if a module has put out nothing since then.
            TypeError, ValueError: as `feature_affinity_loss`.
        """
        taken = [
            {name: _take(whose, name, tap) for name, tap in taps.items()}
            for whose, taps in zip(("teacher", "student"), self._taps, strict=True)
        ]
        return self.loss([taken[0][name] for name, _ in self.layers], [taken[1][name] for _, name in self.layers])

    def remove(self) -> None:
        """Take the hooks off both networks."""
        for handle in self._handles:
            handle.remove()

    def __repr__(self) -> str:
        pairs = ", ".join(f"{of_teacher!r}: {of_student!r}" for of_teacher, of_student in self.layers)
        return f"HookedAffinityLoss({{{pairs}}}, {self.loss.extra_repr()})"

    def __enter__(self) -> HookedAffinityLoss:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.remove()


def _pairs(layers: Any) -> list[tuple[str, str]]:
    """Pairs of names, of the teacher's and of the student's modules.

    Raises:
        ValueError: if it is anything else, or empty.
    """
    given = layers.items() if isinstance(layers, Mapping) else layers
    pairs = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else []
    if not pairs or not all(
        isinstance(pair, (tuple, list)) and len(pair) == 2 and all(isinstance(name, str) for name in pair)
        for pair in pairs
    ):
        raise ValueError(
            f"layers is {layers!r}; pairs of names, of the teacher's and of the student's modules, are accepted, such as"
            ' {"layer3": "body.7"}'
        )
    return pairs


class _Tap:
    """A forward hook that keeps the latest output."""

    def __init__(self) -> None:
        self.output: Any = None

    def __call__(self, module: nn.Module, given: Any, output: Any) -> None:
        self.output = output

    def __reduce__(self) -> tuple[type[_Tap], tuple[()]]:
        return _Tap, ()  # a copy of the network has one that nobody asks


def _take(whose: str, name: str, tap: _Tap) -> Tensor:
    output, tap.output = tap.output, None
    if output is None:
        raise RuntimeError(f"the {whose}'s module {name} has not run since the last loss; run both networks first")
    features = output[0] if isinstance(output, (tuple, list)) and output else output
    if not isinstance(features, Tensor):
        raise TypeError(
            f"the {whose}'s module {name} puts out a {type(features).__name__}; a tensor, or a tuple that begins with one,"
            " is accepted"
        )
    return features


def _module(whose: str, network: nn.Module, name: str) -> nn.Module:
    modules = dict(network.named_modules())
    if name not in modules:
        near = difflib.get_close_matches(name, [known for known in modules if known], cutoff=0.4)
        known = ", ".join(near or [known for known in modules if known][:5]) or "none"
        raise ValueError(f"the {whose} has no module {name!r}; among those that it has: {known}")
    return modules[name]
