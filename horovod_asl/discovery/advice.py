"""The way on with a source of which no photo, or not all, can be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from horovod_asl.discovery.class_names import OURS, ClassNames, natural_order, some_of
from horovod_asl.discovery.file_names import is_heif
from horovod_asl.errors import UserError
from horovod_asl.photos.archives import archives_line
from horovod_asl.photos.decode import can_read_heif

_ALPHABETS = {24: "{A..I} {K..Y}", 26: "{A..Z}", 29: "{A..Z} del nothing space"}
"""By the number of folders, what their classes may be, as a shell spells it."""


def no_photos_line(path: Path, files: Sequence[str], unknown: Mapping[str, int], classes: ClassNames) -> str:
    """Why no photo of a class was found among the `files` of a source; `unknown`: files per folder that is none."""
    if not files:
        return f"{path} holds no file: give a folder of class folders ({OURS}) with photos"
    if line := archives_line(path, files):
        return line
    if not classes.file and (line := _numbers_line(path, unknown)):
        return line
    words = {"files in no folder" if name == "." else name: count for name, count in unknown.items()}
    seen = ", ".join(f"{name} ({count})" for name, count in list(words.items())[:5])
    here = f"; there are {seen}" if seen else ""
    if classes.file:
        return f"{path} holds no folder that {classes.file} gives a class{here}: correct the file"
    return (
        f"{path} holds no class folders ({OURS}) with photos{here}: give the folder that holds them, or say what the "
        "names mean (--classes FILE, or --class-from-name REGEX for names of files)"
    )


def refuse_heif_without_extra(path: Path, photos: Sequence[str]) -> None:
    """UserError, before any photo is read, if some are HEIC by their names and nothing is here that reads it."""
    heif = [photo for photo in photos if is_heif(photo)]
    if heif and not can_read_heif():
        raise UserError(
            f"{len(heif)} of {len(photos)} photos of {path} are HEIC, such as {heif[0]}: pip install "
            f"'horovod_asl[heic]' to read them, or --exclude '*{PurePosixPath(heif[0]).suffix}' to leave them out"
        )


def _numbers_line(path: Path, words: Mapping[str, int]) -> str:
    """How to say which classes folders are whose names are numbers; empty where they are not."""
    numbers = natural_order(word for word in words if word.isdecimal())
    if len(numbers) < 2:
        return ""
    guess = _ALPHABETS.get(len(numbers))
    example = f" (if they are the alphabet: printf '%s\\n' {guess} > classes.txt)" if guess else ""
    return (
        f"{path} has {len(numbers)} folders with numbers for names ({some_of(numbers)}), which say no class: "
        f"write their classes in this order into a file, a line each{example}, and add --classes classes.txt"
    )
