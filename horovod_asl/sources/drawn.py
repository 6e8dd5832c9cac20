"""The synthetic sample as a source of photos: drawn by the workers and then treated like any other
picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from horovod_asl.synthetic.render import SampleSpec, render_spec, sample_specs


@dataclass(frozen=True, slots=True)
class SpecOrigin:
    """A photo that is drawn when it is read."""

    spec: SampleSpec
    image_size: int

    def read(self) -> bytes:
        """The drawing as a PPM file: exact pixels, and one way through the decoder for all photos."""
        size = self.image_size
        return b"P6 %d %d 255\n" % (size, size) + render_spec(self.spec, size).tobytes()


def rendered_photos(
    image_size: int, *, recordings: int, photos_per_class_per_recording: int, seed: int, variety: float
) -> Iterator[tuple[str, str, str, SpecOrigin]]:
    """Path, class name, recording and origin of each photo of the sample."""
    for spec in sample_specs(seed, recordings, photos_per_class_per_recording, variety):
        yield f"{spec.name}.ppm", spec.label, f"r{spec.recording}", SpecOrigin(spec, image_size)
