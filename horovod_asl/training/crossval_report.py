"""The report of a cross-validation: the row of each fold, their table, and what abstaining gains.

    OUT/FOLD/fold.json      the row of a fold: its scores, who was trained on, its curve of coverage and accuracy
    OUT/crossval.json       all rows; crossval.md is their table, coverage.png the curves
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from horovod_asl.engine.predictions import Predictions, metrics_report
from horovod_asl.errors import UserError
from horovod_asl.metrics.calibration import ACCURACIES, coverage_curve, threshold_for
from horovod_asl.runs.run_folder import FACTS, RunFolder
from horovod_asl.splits.recordings import by_source, listed
from horovod_asl.store.folds import Fold, names_of
from horovod_asl.store.store import Store
from horovod_asl.system.files import write_atomically

ROW, REPORT, TABLE, PLOT = "fold.json", "crossval.json", "crossval.md", "coverage.png"
_CURVE_POINTS = 99

HEAD = (
    "held out",
    "in training",
    "photos",
    "accuracy",
    "without J, Z",
    "macro F1",
    "ECE before → after",
    "answered at 95 % right",
    "most confused",
)


def rows_of(out: Path) -> list[dict[str, Any]]:
    """The rows of all folds that are finished under `out`, by name.

    Raises:
        UserError: a fold's run was trained on recordings that the fold holds out.
    """
    rows = []
    for file in sorted(out.glob(f"*/{ROW}")):
        row, run = json.loads(file.read_text()), RunFolder(file.parent)
        refuse_seen(run, row, row["test"])
        # Rows of older versions lack it.
        unknown = run.unknown_weights() if (run.path / FACTS).is_file() else None
        rows.append({"unknown_weights": unknown} | row)
    return sorted(rows, key=lambda row: str(row["held_out"]))


def refuse_seen(run: RunFolder, row: dict[str, Any], test: Sequence[str], digests: Iterable[str] = ()) -> None:
    """UserError where the run of a fold was trained on those whom the fold holds out.

    Args:
        row: the fold's row, for `trained_on` where the run's facts are gone.
        test: the recordings that are held out.
        digests: SHA-256 of the photos that are held out.
    """
    facts = run.facts() if (run.path / FACTS).is_file() else row
    # Whom a parent run saw is judged by its photos alone: another store may use a name for another recording.
    earlier = (facts.get("initialized_from") or {}).get("trained_on", ())
    named = sorted(({*facts["trained_on"]} - {*earlier}) & {*test})
    photos = sum(run.were_in_training(digests) or ())
    if named or photos:
        raise UserError(
            f"{run.path} was trained on {listed(named) if named else f'{photos:,} photos'}, which the fold holds "
            "out, so its score would not be that of strangers: remove that folder, and the fold is trained anew"
        )


def row_of_fold(fold: Fold, store: Store, run: RunFolder) -> dict[str, Any]:
    """The row of a fold that is trained: the scores of its best weights on those who were held out.

    Raises:
        UserError: the run was trained on recordings or photos that the fold holds out.
    """
    facts, result, arrays = run.facts(), run.result(), run.predictions()
    refuse_seen(run, facts, names_of(fold.test), store.digests[store.rows("test")])
    predictions = {
        side: Predictions(arrays[f"{side}_logits"], arrays[f"{side}_labels"])
        for side in ("validation", "test")
        if f"{side}_logits" in arrays
    }
    held_out, validation = predictions["test"], predictions.get("validation")
    temperature = result["temperature"] or 1.0
    confidence = held_out.confidence(temperature)
    curve = coverage_curve(confidence, held_out.right, _curve_thresholds(confidence))
    return {
        "held_out": fold.held_out,
        "test": names_of(fold.test),
        "trained_on": sorted({*names_of(fold.train), *facts["trained_on"]}),
        "unknown_weights": run.unknown_weights(),
        "validated_on": names_of(fold.validation),
        "validation_rule": fold.reason,
        "same_signer_in_training": fold.same_signer,
        "photos": {side: len(store.rows(side)) for side in ("train", "validation", "test")},
        "epoch": result["epoch"],
        "settings": facts["settings"],
        "scores": metrics_report(held_out, facts["classes"], temperature),
        "validation": _validation_figures(validation, temperature),
        "temperature_fitted": validation is not None and not bool(validation.right.all()),
        "thresholds_of_validation": _thresholds_of_validation(validation, held_out, temperature),
        "curve": [point._asdict() for point in curve],
    }


def _curve_thresholds(confidence: Any) -> list[float]:
    """Thresholds that answer equal steps of the photos, down to 2 %: fewer would be the luck of a few."""
    return [float(one) for one in np.unique(np.quantile(confidence, np.linspace(0, 0.98, _CURVE_POINTS)))]


def _validation_figures(predictions: Predictions | None, temperature: float) -> dict[str, float] | None:
    if predictions is None:
        return None
    before, after = predictions.scores(), predictions.scores(temperature)
    return {"n": before.n, "top1": before.top1, "ece": before.ece, "ece_calibrated": after.ece}


def _thresholds_of_validation(
    validation: Predictions | None, held_out: Predictions, temperature: float
) -> dict[str, Any] | None:
    """For each accuracy the threshold chosen on validation, and its coverage and accuracy on the held-out photos."""
    if validation is None:
        return None
    asked = {
        accuracy: threshold_for(validation.confidence(temperature), validation.right, accuracy)
        for accuracy in ACCURACIES
    }
    confidence = held_out.confidence(temperature)
    return {
        str(accuracy): point and coverage_curve(confidence, held_out.right, [point.threshold])[0]._asdict()
        for accuracy, point in asked.items()
    }


def write_report(out: Path, rows: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Write crossval.json, crossval.md and the plot; the cells of the table, one row per fold."""
    from horovod_asl.reports.plots import plot_coverage

    cells = [table_row(row) for row in rows]
    write_atomically(out / REPORT, json.dumps(list(rows), indent=1))
    write_atomically(out / TABLE, markdown(cells))
    plot_coverage(rows, out / PLOT)
    return cells


def table_row(row: dict[str, Any]) -> tuple[str, ...]:
    """The cells of a fold under `HEAD`."""
    scores, rest = row["scores"], row["scores"]["without_j_z"]
    least = scores["at_accuracy"]["0.95"]
    after = f"{scores['ece_calibrated']:.3f}"
    if not row["temperature_fitted"]:
        after = "not fitted" if row["validation"] else "no validation"
    others = row["test"] + row["validated_on"]
    validated = (
        f"; validated on {_recordings(row['validated_on'], row['trained_on'])}" if row["validated_on"] else ""
    )
    unknown = row.get("unknown_weights")
    first = f"; whoever was in the training of {Path(unknown).name}, which is not known" if unknown else ""
    again = " (the same signer is in training)" if row["same_signer_in_training"] else ""
    return (
        row["held_out"] + again,
        _recordings(row["trained_on"], others) + first + validated,
        f"{scores['n']:,}",
        f"{scores['top1']:.1%}",
        f"{rest['top1']:.1%}",
        f"{scores['macro_f1']:.3f}",
        f"{scores['ece']:.3f} → {after}",
        "none" if least is None else f"{least['coverage']:.0%} (confidence {least['threshold']:.2f})",
        ", ".join(_most_confused(scores)) or "none",
    )


def markdown(cells: Sequence[Sequence[str]]) -> str:
    """The table for a README; figures to the right."""
    marks = ["---", "---", "---:", "---:", "---:", "---:", "---:", "---:", "---"]
    lines = [HEAD, marks, *cells]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def _recordings(names: Sequence[str], others: Sequence[str]) -> str:
    """`asl 1, 2; phone` for recordings: of a source with none among `others` the name alone."""
    parted = by_source(others)
    parts = [
        f"{source} {', '.join(part.partition('/')[2] for part in own)}" if source in parted else source
        for source, own in sorted(by_source(names).items())
    ]
    return "; ".join(parts)


def _most_confused(scores: dict[str, Any], count: int = 3) -> list[str]:
    """The pairs that cost the most photos: `G as Q 41`."""
    from horovod_asl.reports.plots import most_confused

    return [f"{shown} as {read} {n}" for shown, read, n, _ in most_confused(scores, count)]
