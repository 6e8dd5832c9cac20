"""The public ASL Alphabet set through kagglehub (the only file that imports it)."""

from __future__ import annotations

from pathlib import Path

from horovod_asl.errors import UserError

DATASET = "grassknoted/asl-alphabet"
_BY_HAND = f"or download it from https://www.kaggle.com/datasets/{DATASET} and give the zip as SOURCE"


def download_asl_alphabet() -> Path:
    """The folder with the downloaded set (kept by kagglehub, downloaded once).

    UserError if kagglehub is missing, or the download fails (offline, no account).
    """
    try:
        import kagglehub
    except ImportError as error:
        raise UserError(f"`kaggle` needs kagglehub: pip install 'horovod_asl[kaggle]', {_BY_HAND}") from error
    try:
        return Path(kagglehub.dataset_download(DATASET))
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"Kaggle's {DATASET} could not be downloaded ({reason}): go online, {_BY_HAND}"
        ) from error
