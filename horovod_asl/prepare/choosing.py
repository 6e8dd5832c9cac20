"""Choose the photos of a prepare from its sources: all of them, or a subset that is balanced over the classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from horovod_asl.discovery.class_names import classes_by
from horovod_asl.errors import UserError
from horovod_asl.prepare.options import PhotoSelection
from horovod_asl.sources.sources import Source, SourcePhoto, open_sources
from horovod_asl.splits.split import balanced_subset


def open_selection(selection: PhotoSelection, *, image_size: int, by_folders: bool) -> list[Source]:
    """The sources of a selection, ordered by name, see `open_sources`."""
    return open_sources(
        selection.sources,
        group_by=selection.group_by,
        image_size=image_size,
        synthetic=selection.synthetic,
        by_folders=by_folders,
        exclude=selection.exclude,
        classes=classes_by(selection.class_file, selection.class_from_name),
    )


def choose_photos(
    sources: Sequence[Source], samples: int | None, seed: int
) -> tuple[list[SourcePhoto], list[str]]:
    """What is to be prepared, ordered by source and path: all photos, or about `samples` of them; and lines for the
    user. UserError if there are fewer than `samples`."""
    photos = [photo for source in sources for photo in source.photos]
    if samples is None:
        return photos, []
    if samples > len(photos):
        raise UserError(
            f"--samples {samples}: there are only {len(photos)} photos; ask for fewer or leave it out"
        )
    labels = np.array([photo.label for photo in photos], np.int64)
    rows = balanced_subset(labels, [(photo.source, photo.recording) for photo in photos], samples, seed)
    too_few = (
        f"--samples {samples}: {len(rows)} drawn, because some classes have too few photos to stay balanced"
    )
    return [photos[row] for row in rows], [too_few] if len(rows) < samples else []
