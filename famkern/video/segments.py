"""What is done of a film, kept on disk: a film whose run was killed goes on where it stood.

A film is encoded in segments of SEGMENT frames, each by an encoder of its own, so that none depends on what an encoder
remembers of the one before. Beside the film that is being written, .NAME.segments holds for each finished segment

    00000.packets       what the encoder made of it: two arrays in NumPy's format for each packet, its numbers and its bytes
    00000.safetensors   the averages after its last frame, and the key of the run: written last, its presence counts

The film is always put together from these, so that its bytes do not tell how often it was gone on with.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .. import images

SEGMENT = 120  # frames

KEY = "run"  # the name of the key in a file's metadata


@dataclass(frozen=True)
class Packet:
    """Of an encoder: bytes, and in its ticks when they are shown, when they are decoded, and for how long."""

    data: bytes
    pts: int
    dts: int
    duration: int
    is_keyframe: bool


class Segments:
    """The finished segments of a film, and the one that is being encoded.

    Args:
        target: the film that they become.
        key: tells runs with other results apart; what is there of another is removed.

    Attributes:
        count: how many are finished.

    `add` and `finish` raise ImageError if they cannot write.
    """

    def __init__(self, target: Path, key: str) -> None:
        self._target, self._key = target, key
        place = Path(os.path.realpath(target))
        self._folder = place.with_name(f".{place.name}.segments")
        self._packets: BinaryIO | None = None
        self.count = 0
        while self._is_finished(self.count):
            self.count += 1
        if not self.count:  # of another run, or of none
            self.remove()

    def state(self) -> dict[str, Tensor]:
        """The averages after the last finished segment; empty where there is none."""
        if not self.count:
            return {}
        with safe_open(self._state_path(self.count - 1), "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    def add(self, packets: Iterable[Packet]) -> None:
        """Take packets of the segment that is being encoded."""
        with images.writing(self._target):
            if self._packets is None:
                self._folder.mkdir(exist_ok=True)
                self._packets = open(self._folder / "packets.part", "wb")  # noqa: SIM115
            for packet in packets:
                numbers = [packet.pts, packet.dts, packet.duration, int(packet.is_keyframe)]
                np.save(self._packets, np.array(numbers, np.int64))
                np.save(self._packets, np.frombuffer(packet.data, np.uint8))

    def finish(self, state: Mapping[str, Tensor] | None) -> int:
        """All packets of the segment are there; `state`: the averages after its last frame, if others follow.

        Returns:
            Its number.
        """
        self.add([])
        assert self._packets is not None
        with images.writing(self._target):
            self._packets.flush()
            os.fsync(self._packets.fileno())
            self._packets.close()
            os.replace(self._packets.name, self._packets_path(self.count))
        self._packets = None
        if state is None:  # the last one, which is shorter: to be counted, a segment must be whole
            return self.count
        with images.replacing(self._state_path(self.count), lasting=True) as file:
            file.write(save({name: tensor.cpu().contiguous() for name, tensor in state.items()}, {KEY: self._key}))
        self.count += 1
        return self.count - 1

    def packets(self, index: int) -> Iterator[Packet]:
        """Of a finished segment, in their order."""
        with open(self._packets_path(index), "rb") as file:
            length = os.fstat(file.fileno()).st_size
            while file.tell() < length:
                pts, dts, duration, is_keyframe = np.load(file, allow_pickle=False).tolist()
                yield Packet(np.load(file, allow_pickle=False).tobytes(), pts, dts, duration, bool(is_keyframe))

    def close(self) -> None:
        """Let go of the segment that is not finished."""
        if self._packets is not None:
            self._packets.close()
            os.unlink(self._packets.name)
            self._packets = None
        if not self.count:
            self.remove()

    def remove(self) -> None:
        """Remove all of it: the film is there, or will never be."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self._folder)

    def _is_finished(self, index: int) -> bool:
        try:
            with safe_open(self._state_path(index), "pt") as file:
                return (file.metadata() or {}).get(KEY) == self._key and self._packets_path(index).exists()
        except (OSError, SafetensorError):
            return False

    def _packets_path(self, index: int) -> Path:
        return self._folder / f"{index:05}.packets"

    def _state_path(self, index: int) -> Path:
        return self._folder / f"{index:05}.safetensors"
