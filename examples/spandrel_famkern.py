"""famkern's networks for spandrel, the library that finds out which network a file of weights belongs to.

    python spandrel_famkern.py student-indoor weights.safetensors

    import spandrel, spandrel_famkern

    spandrel_famkern.register()
    model = spandrel.ModelLoader().load_from_file("weights.safetensors")
    clear = model(hazy)         # (1, 3, H, W) in [0, 1]

The first line writes a network so that spandrel can read all of it: of files as famkern ships and trains them it would
leave out the window, which lies beside the tensors. The networks run as plain PyTorch modules, the whole picture at once.
docs/spandrel.md says more.
"""

from __future__ import annotations

import os
import sys

from safetensors.torch import save_file
from spandrel import (
    MAIN_REGISTRY,
    Architecture,
    ArchRegistry,
    ArchSupport,
    ImageModelDescriptor,
    ModelTiling,
    StateDict,
)
from spandrel.util import KeyCondition

from famkern import models
from famkern.models import Student, UStudent
from famkern.models.loading import build
from famkern.models.student import normalise


class StudentFamily(Architecture[Student | UStudent]):
    """Students, FFA-Net among them, or U-shaped students: their channels and blocks are read off the tensors."""

    def load(self, state_dict: StateDict) -> ImageModelDescriptor[Student | UStudent]:
        """The network, behind a call that takes and returns RGB in [0, 1]."""
        tensors = dict(state_dict)
        window = tensors.pop("window", None)
        network = build(tensors, f"the weights of a {self.name}")
        network.window = None if window is None else int(window)
        return ImageModelDescriptor(
            network,
            network.state_dict(),
            architecture=self,
            purpose="Restoration",
            tags=[network.extra_repr()],
            supports_half=True,
            supports_bfloat16=True,
            scale=1,
            input_channels=3,
            output_channels=3,
            # Not that tiles would be made inside, but that none must be made outside: each would be dehazed by its own
            # means, and they would not fit together. Of spandrel's values this is the one that chaiNNer goes by.
            tiling=ModelTiling.INTERNAL,
            call_fn=lambda network, image: network(normalise(image)),
        )


ARCHITECTURES = (
    StudentFamily(
        id="famkern-student",
        name="famkern student",
        detect=KeyCondition.has_all(
            "pre.0.weight",
            "g1.gp.0.conv1.weight",
            "g1.gp.0.calayer.ca.0.weight",
            "g1.gp.0.palayer.pa.0.weight",
            "ca.1.weight",
            "palayer.pa.0.weight",
            "post.1.weight",
        ),
    ),
    StudentFamily(
        id="famkern-u-student",
        name="famkern U-shaped student",
        detect=KeyCondition.has_all(
            "pre.0.weight",
            "e1.gp.0.conv1.weight",
            "e1.gp.0.calayer.ca.0.weight",
            "down1.weight",
            "up1.weight",
            "fuse1.weight",
            "d1.gp.0.palayer.pa.0.weight",
            "post.0.weight",
        ),
    ),
)


def register(registry: ArchRegistry = MAIN_REGISTRY) -> None:
    """Have every ModelLoader of this registry know them. A second call changes nothing."""
    registry.add(*(ArchSupport.from_architecture(one) for one in ARCHITECTURES if one.id not in registry))


def save(model: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Write a network, of a name or a checkpoint as `famkern.Dehazer` takes it, with its window among the tensors."""
    save_file(models.load(model).state_dict(), path)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: python spandrel_famkern.py MODEL FILE.safetensors")
    save(sys.argv[1], sys.argv[2])
