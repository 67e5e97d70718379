"""Films out: frames are encoded, packets of other streams copied, and all that the film says of itself goes along."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .. import images
from .formats import CONTAINERS, ENCODERS, Encoder, encoder_of, pyav
from .reading import BT709, FULL, Frame, Header, exact
from .segments import Packet

logger = logging.getLogger("famkern")

# What a container says of itself, which is not the next one's.
OWN_KEYS = ("major_brand", "minor_version", "compatible_brands", "encoder", "duration")
RATE_TOLERANCE = 128_000  # bits a second, of encoders without a constant quality
RGB_MATRIX = 0


@contextmanager
def writer(
    target: Path, header: Header, source: Any, *, codec: str | None = None, crf: int | None = None
) -> Iterator[Writer]:
    """What takes the frames and packets of a film; the film is there, whole, when the block has ended well.

    Args:
        target: the file, with a suffix out of CONTAINERS.
        header: of the film that goes in, and `source`, the same as PyAV has opened it.
        codec: a name in ENCODERS, or FFmpeg's of an encoder; None: the film's own, see ENCODERS.
        crf: constant quality of these codecs, lower is better; None: the encoder's in ENCODERS.

    Raises:
        ImageError: if it cannot be written.
    """
    av = pyav(target)
    name = CONTAINERS[target.suffix.lower()]
    options = {"fflags": "+bitexact"}  # no numbers drawn by chance: the same film has the same bytes
    if name in ("mp4", "mov"):
        movflags = "+faststart" + ("+use_metadata_tags" if any("." in key for key in source.metadata) else "")
        options["movflags"] = movflags
    with images.replacing(target) as file:
        try:
            container = av.open(file.name, "w", format=name, container_options=options)
            try:
                yield Writer(av, container, target, header, source, codec, crf)
                container.close()
            except BaseException:
                with contextlib.suppress(Exception):  # it is for the first error to be told
                    container.close()
                raise
        except av.FFmpegError as error:
            reason = error.strerror or str(error)
            raise images.fault(target, f"cannot be written ({reason}); {images.ADVICE}") from error


class Writer:
    """Encodes frames, and copies packets into an open container."""

    def __init__(
        self,
        av: Any,
        container: Any,
        target: Path,
        header: Header,
        source: Any,
        codec: str | None,
        crf: int | None,
    ) -> None:
        self._av, self._container, self._header = av, container, header
        self._convert, self._flags = av.video.reformatter.VideoReformatter(), exact(av)
        self._streams: dict[int, Any] = {}  # by their number in the source
        encoder, self._format = self._choose(target, codec, crf)
        self._name, self._options = encoder.name, dict(encoder.options)
        if encoder.crf is not None:
            self._options["crf"] = str(encoder.crf if crf is None else crf)
        for stream in source.streams:
            if stream.index == header.video:
                self._video = self._add_video(stream)
            elif (copied := self._add_copy(stream, target)) is not None:
                self._streams[stream.index] = copied
        container.metadata.update(_described(source))
        container.set_chapters(source.chapters())
        # The container's own encoder, whose header it writes, encodes the first segment; later ones have others like it.
        self._encoder = self._video.codec_context
        self._last: int | None = None  # when the last packet is to be decoded
        try:
            self._encoder.open()
        except (av.FFmpegError, ValueError) as error:
            what = f"frames of {header.width} x {header.height} pixels ({self._format})"
            raise images.fault(target, f"{encoder.name} does not encode {what}; choose another --codec") from error

    def encode(self, item: Frame) -> list[Packet]:
        """What the encoder makes of frames so far, this one among them; they go into no container."""
        header, colours = self._header, self._header.colours
        frame = self._convert.reformat(
            self._av.VideoFrame.from_ndarray(item.pixels, header.rgb),
            format=self._format,
            src_color_range=FULL,
            **{f"dst_{name}": value for name, value in header.conversion.items()},
            interpolation=self._flags,
            threads=1,
        )
        frame.color_range, frame.colorspace = colours.range, self._matrix
        frame.color_primaries, frame.color_trc = colours.primaries, colours.transfer
        frame.pts, frame.time_base, frame.duration = item.pts, self._time_base, item.duration
        if self._encoder is None:
            self._encoder = self._new_encoder()
        return self._encoded(frame)

    def end_segment(self) -> list[Packet]:
        """What the encoder still has. The next frame meets a new one."""
        packets = self._encoded(None) if self._encoder else []
        self._encoder = None
        return packets

    def write(self, packets: Iterable[Packet]) -> None:
        """Take encoded frames."""
        for each in packets:
            packet = self._av.Packet(each.data)
            # An encoder begins to count before its first frame, and so perhaps before the last packet of the one before.
            dts = each.dts if self._last is None else max(each.dts, self._last + 1)
            packet.pts, packet.dts, packet.duration = each.pts, dts, each.duration
            packet.is_keyframe, packet.time_base, packet.stream = each.is_keyframe, self._time_base, self._video
            self._last = dts
            self._container.mux(packet)

    def copy(self, packet: Any) -> None:
        """Take a packet of another stream."""
        if (stream := self._streams.get(packet.stream.index)) is not None:
            packet.stream = stream
            self._container.mux(packet)

    def _encoded(self, frame: Any) -> list[Packet]:
        return [
            Packet(bytes(each), each.pts, each.dts, each.duration, each.is_keyframe)
            for each in self._encoder.encode(frame)
        ]

    def _choose(self, target: Path, codec: str | None, crf: int | None) -> tuple[Encoder, str]:
        """The encoder, and the pixel format that it takes: as deep as the film's wherever one is."""
        av, depth_lost = self._av, self._av.codec.codec.PixFmtLoss.DEPTH
        wanted = [codec] if codec else [name for name in (self._header.codec, *ENCODERS) if name in ENCODERS]
        first: tuple[Encoder, str] | None = None
        for name in wanted:
            encoder = encoder_of(name, crf)
            try:
                formats = av.Codec(encoder.name, "w").video_formats
            except av.codec.codec.UnknownCodecError as error:
                raise images.fault(
                    target, f"there is no encoder {encoder.name} here; choose another --codec"
                ) from error
            if encoder.name not in self._container.supported_codecs:
                continue
            if not formats:
                raise images.fault(target, f"{encoder.name} encodes no pictures; choose another --codec")
            formats = [each for each in formats if not each.name.startswith("yuvj")]
            best, loss = av.codec.find_best_pix_fmt_of_list(formats, self._header.pixel_format)
            if not loss & depth_lost:
                return encoder, best.name
            first = first or (encoder, best.name)
        if first is None:
            raise images.fault(target, f"{target.suffix} holds no {codec}; choose another --codec, or .mkv")
        logger.warning(f"{target}: {first[1]} has fewer bits than the film's {self._header.pixel_format}")
        return first

    def _add_video(self, source: Any) -> Any:
        colours, made = self._header.colours, self._av.VideoFormat(self._format)
        self._time_base, self._aspect = source.time_base, source.sample_aspect_ratio
        rgb_lost = colours.matrix == RGB_MATRIX and not made.is_rgb
        self._matrix = (BT709 if self._header.conversion["colorspace"] == BT709 else 6) if rgb_lost else colours.matrix
        stream = self._container.add_stream(self._name, rate=self._header.rate, options=self._options)
        stream.time_base = source.time_base
        self._set_up(stream.codec_context)
        if self._header.display_matrix:
            stream.set_display_matrix(self._header.display_matrix)
        self._describe(stream, source)
        return stream

    def _new_encoder(self) -> Any:
        encoder = self._av.CodecContext.create(self._name, "w")
        encoder.options, encoder.flags = dict(self._options), self._video.codec_context.flags
        self._set_up(encoder)
        return encoder

    def _set_up(self, encoder: Any) -> None:
        header, colours = self._header, self._header.colours
        encoder.width, encoder.height, encoder.pix_fmt = header.width, header.height, self._format
        encoder.time_base, encoder.framerate = self._time_base, header.rate
        encoder.bit_rate, encoder.bit_rate_tolerance = 0, RATE_TOLERANCE
        if self._aspect:
            encoder.sample_aspect_ratio = self._aspect
        encoder.color_range, encoder.colorspace = colours.range, self._matrix
        encoder.color_primaries, encoder.color_trc = colours.primaries, colours.transfer
        encoder.flags |= self._av.codec.context.Flags.frame_duration

    def _add_copy(self, source: Any, target: Path) -> Any:
        """A stream for the packets of another one; None, with a line, if it is left out."""
        kind = f"{source.type} {source.codec_context.name}" if source.codec_context else source.type
        fonts = source.type == "attachment" and target.suffix.lower() != ".mkv"
        if source.type == "data" or fonts:  # telemetry: whether a container takes it is not known before it is too late
            logger.warning(f"{target}: stream {source.index} ({kind}) is left out")
            return None
        try:
            stream = self._container.add_stream_from_template(source, opaque=True)
        except ValueError as error:
            raise images.fault(target, f"{target.suffix} has no place for {kind}; choose .mkv") from error
        self._describe(stream, source)
        return stream

    def _describe(self, stream: Any, source: Any) -> None:
        stream.metadata.update(_described(source))
        stream.disposition = int(source.disposition)


def _described(source: Any) -> dict[str, str]:
    """What a film or one of its streams says, without what its container says of itself."""
    return {key: value for key, value in source.metadata.items() if key.lower() not in OWN_KEYS}
