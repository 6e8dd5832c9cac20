"""What `evaluate` prints: each line can be understood by itself."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from horovod_asl.splits.recordings import by_source, listed


def lines_of(answer: Mapping[str, Any]) -> list[str]:
    """The lines for a score as `evaluate --json` has it."""
    rest = answer["without_j_z"]
    return [
        _named("scored", answer["scored"]),
        _named("trained on", answer["trained_on"]),
        *_of_training(answer),
        *([f"note: hands were found by {answer['other_finder']}"] if answer.get("other_finder") else []),
        f"{answer['correct']:,} of {answer['n']:,} photos classified correctly: {answer['top1']:.2%} (top-1)",
        f"the right class is among the three likeliest for {answer['top3']:.2%} of the photos (top-3)",
        f"macro F1, which counts every class alike: {answer['macro_f1']:.2%}",
        f"without J and Z, which are movements: {rest['top1']:.2%} of {rest['n']:,} photos classified correctly, "
        f"macro F1 {rest['macro_f1']:.2%}",
        *_of_confidence(answer),
    ]


def _named(title: str, names: Sequence[str]) -> str:
    """As wide as a terminal, the names below each other."""
    return textwrap.fill(f"{title:<11}{listed(names)}", 80, subsequent_indent=" " * 11, break_long_words=False)


def _of_training(answer: Mapping[str, Any]) -> Iterator[str]:
    """Whose hands were seen in training, and what the score therefore does not say."""
    unknown, count = answer["in_training_unknown_because"], answer["photos_known_in_training"]
    if unknown is None:
        yield f"{count:,} of {answer['n']:,} photos were in training"
    else:
        known = f" ({count:,} of {answer['n']:,} are known to have been)" if count else ""
        yield f"whether these photos were in training is unknown: {unknown}{known}"
    if count:
        parts = ", ".join(answer["seen_in_training"])
        yield f"note: {parts}: partly or wholly in training, so this says nothing about other people"
    if answer["split_rule"] == "random":
        yield "note: the run's split is random: neighbouring frames were in training"
    if _is_split_of_folders(answer):
        yield (
            "note: the split is that of the photos' folders (train/, test/ …), which do not say whether the people "
            "in these photos were in training too"
        )


def _is_split_of_folders(answer: Mapping[str, Any]) -> bool:
    """Whether photos of a source are scored of which folders such as `train/` said what was in training."""
    shared = by_source(answer["scored"]).keys() & by_source(answer["trained_on"]).keys()
    return answer["split_rule"] == "folders" and bool(shared)


def _of_confidence(answer: Mapping[str, Any]) -> Iterator[str]:
    """How far the confidence can be trusted, and for each accuracy that is wanted, when to abstain."""
    temperature = answer["temperature"]
    for key, words in (("nll", "negative log-likelihood"), ("ece", "calibration error")):
        fitted = f", {answer[f'{key}_calibrated']:.4f} at the run's temperature of {temperature:.3f}"
        yield f"{words} ({key}): {answer[key]:.4f}{fitted if temperature != 1 else ''}"
    wanted: dict[str, list[str]] = {}
    for accuracy, point in answer["at_accuracy"].items():
        wanted.setdefault(_advice(point), []).append(f"{float(accuracy):.0%}")
    yield from (f"to be {' or '.join(targets)} right, {advice}" for advice, targets in wanted.items())


def _advice(point: Mapping[str, Any] | None) -> str:
    """What to do for an accuracy, by the lowest confidence that gives it here."""
    if point is None:
        return "no confidence is high enough here"
    if point["coverage"] == 1:
        return f"answer all photos ({point['accuracy']:.1%} of the answers are right)"
    return f"answer {point['coverage']:.1%} of the photos (abstain below {point['threshold']:.3f})"
