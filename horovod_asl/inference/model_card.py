"""The card of a bundled model: Markdown made of facts, after Mitchell et al. 2019 (arXiv:1810.03993)."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from horovod_asl.errors import UserError
from horovod_asl.runs.bundled_model import ONNX, WEIGHTS
from horovod_asl.runs.run_folder import CONFIG, RESULT, RunFolder, training_unknown
from horovod_asl.splits.recordings import listed, summed_up
from horovod_asl.store.store import Store

_CARD = Template(
    """# $model, $classes classes

Tells which letter of the American Sign Language alphabet (or `del`, `nothing`, `space`) a hand shows in one photo.

| file | size | SHA-256 |
|---|---:|---|
$files

The ONNX graph takes $inputs and gives logits `(n, $classes)`; its metadata names the classes in order. Both files
hold the same $parameters parameters, of epoch $epoch$rounded. Probabilities are the softmax of the logits divided by
$temperature, the temperature $origin. A run's folder is not needed:

    horovod-asl predict photo.jpg
    horovod-asl evaluate default FOLDER --json scores.json

## What it was trained on

$data

Validated on: $validated$chosen. The SHA-256 of every photo of training begins with a line of
`trained_on.sha256`; `evaluate` counts how many of the photos that it scores are among them.

## How it was made

    $command

$settings. The config, whole:

```yaml
$config```

$first$notes## How it scores

$scores

NLL and ECE are at the temperature T: that of the scored model's own validation, 1 where it had none. Where photos of
the same person or room were in training, a score says nothing about other people. Sets that were left out are scored
by models of the same recipe, trained without them.

## Where it fails

- It sees one photo. J and Z are movements: of them it sees a moment, and may take it for I or D.
- Fingers hidden by others: M, N, S and T differ by what the thumb does behind them.
- One hand per photo is read. Several hands, gloves, strong blur and hands cut off by the edge are not what it learnt.
- The people it was trained on are few: skin, age, hand shape and handedness beyond theirs are not measured.
- It reads letters held still, one by one. That is not sign language, and no basis for a decision about a person.

## Licence

The weights and this card: Apache-2.0, as horovod_asl. The photos are not part of it; they have licences of their own.
"""
)
UNKNOWN = "not known"
_NEEDED = {"n", "top1", "macro_f1", "nll", "ece"}
_HEAD = """| photos of | n | in training | top-1 | without J, Z | macro F1 | T | NLL | ECE |
|---|---:|---:|---:|---:|---:|---:|---:|---:|"""

Row = tuple[str, Mapping[str, Any]]
"""What was scored, and its scores (`predictions.metrics_report`), with `photos_in_training` where it is known."""


def read_scores(path: Path) -> list[Row]:
    """Every set of scores in what `evaluate --json` or `crossval` wrote: at the top, in lists or in sections.

    Raises:
        UserError: the file cannot be read, or holds none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--scores {path} cannot be read as JSON ({error})") from error
    rows = list(_scores_in(content, path.stem))
    if not rows:
        raise UserError(f"--scores {path} holds no scores: give what `evaluate --json` or `crossval` wrote")
    return rows


def model_card(
    run: RunFolder,
    *,
    bundle: Path,
    temperature: float,
    origin: str,
    inputs: Mapping[str, str],
    scores: Sequence[Row],
    notes: str,
) -> str:
    """The card of the model whose files lie in `bundle`.

    Args:
        run: where the model comes from; what its `result.json` says stands before `scores`.
        origin: where `temperature` comes from, to follow "the temperature".
        inputs: of the ONNX graph, by name, as text.
        notes: Markdown in the maker's own words, for the section on how it was made.
    """
    facts = run.facts()
    config = bundle / CONFIG
    manifest, _ = run.best_weights()
    known = RunFolder(bundle).facts()["bundle"]
    rounded = ", rounded to float16" if known["rounded_to"] else ""
    if known["unfinished"]:
        rounded += f"; the run was not finished ({known['unfinished']})"
    return _CARD.substitute(
        model=facts["model"],
        classes=len(facts["classes"]),
        files="\n".join(_file_row(bundle / name) for name in (WEIGHTS, ONNX)),
        inputs=" and ".join(f"`{name}` {kind}" for name, kind in inputs.items()),
        parameters=_thousands(facts.get("settings", {}).get("parameters", "?")),
        epoch=manifest.get("epoch"),
        rounded=rounded,
        temperature=f"{temperature:.4g}",
        origin=origin,
        data=_data(run),
        validated=listed(facts.get("validated_on", [])) or "nothing",
        chosen=_chosen(config) if facts.get("validated_on") else "",
        command=_command(facts),
        settings=", ".join(f"{name} {value}" for name, value in _short(facts).items()),
        config=config.read_text(encoding="utf-8") if config.is_file() else "# not kept\n",
        first=_first(facts),
        notes=f"{notes.strip()}\n\n" if notes.strip() else "",
        scores=_table([*_own_scores(run), *scores]),
    )


def _own_scores(run: RunFolder) -> list[Row]:
    file = run.path / RESULT
    by_split = json.loads(file.read_text(encoding="utf-8"))["scores"] if file.is_file() else {}
    held_out = 0 if run.unknown_weights() is None else UNKNOWN
    return [
        (f"its {split} split", row | {"photos_in_training": row["n"] if split == "train" else held_out})
        for split, row in by_split.items()
    ]


def _scores_in(value: Any, name: str) -> Iterator[Row]:
    if isinstance(value, Mapping) and value.keys() >= {"held_out", "scores"}:
        yield f"{value['held_out']}, left out", value["scores"] | {"photos_in_training": _seen_in_fold(value)}
    elif isinstance(value, Mapping) and value.keys() >= _NEEDED:
        yield _name_of(value) or name, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _scores_in(part, f"{name}: {key}")
    elif isinstance(value, list):
        for number, part in enumerate(value, 1):
            yield from _scores_in(part, f"{name} {number}")


def _seen_in_fold(row: Mapping[str, Any]) -> int | str:
    both = sorted({*row.get("trained_on", ())} & {*row.get("test", ())})
    if both:  # a fold that an older version trained on the store's own split
        return listed(both)
    if row.get("unknown_weights"):
        return UNKNOWN
    return "the same signer" if row.get("same_signer_in_training") else 0


def _name_of(scores: Mapping[str, Any]) -> str | None:
    """The recordings that `evaluate` scored, or the folder's name."""
    scored = scores.get("scored", [])
    return Path(scores["photos"]).name if scored == [scores.get("photos")] else listed(scored) or None


def _file_row(path: Path) -> str:
    data = path.read_bytes()
    return f"| `{path.name}` | {len(data) / 1e6:.2f} MB | `{hashlib.sha256(data).hexdigest()}` |"


def _data(run: RunFolder) -> str:
    """A line per source and recording, with how many photos where the store is still at hand."""
    facts = run.facts()
    counts = _counts(run, facts)
    rows = [
        f"| {name} | {_thousands(sum(counts[part] for part in parts)) if counts else 'not known'} |"
        for name, parts in summed_up(facts.get("trained_on", [])).items()
    ]
    total = f"| all | {_thousands(sum(counts.values()))} |" if counts else "| all | not known |"
    digest = f"A store of photos with the digest `{facts.get('store_digest', 'unknown')}`:"
    unknown = run.unknown_weights()
    note = [] if unknown is None else ["", f"But {training_unknown(Path(unknown).name)}."]
    return "\n".join([digest, "", "| source/recording | photos |", "|---|---:|", *rows, total, *note])


def _counts(run: RunFolder, facts: Mapping[str, Any]) -> Counter[str]:
    """Photos of training per source and recording; empty without the store that the run was trained on."""
    path = Path(facts.get("store", ""))
    if not facts.get("store") or not Store.exists(path):
        return Counter()
    store = Store.open(path)
    trained = run.were_in_training(store.digests)
    if store.digest != facts["store_digest"] or trained is None:
        return Counter()
    pairs = zip(store.sources[trained], store.recordings[trained], strict=True)
    return Counter(f"{source}/{recording}" for source, recording in pairs)


def _command(facts: Mapping[str, Any]) -> str:
    settings = facts.get("settings", {})
    ranks = settings.get("world_size", 1)
    launcher = {
        "horovod": f"horovodrun -np {ranks} ",
        "ddp": f"torchrun --nproc-per-node {ranks} --no-python ",
    }
    prefix = launcher.get(settings.get("backend"), "") if ranks > 1 else ""
    command = f"{prefix}horovod-asl train --config horovod_asl/bundled_model/{CONFIG} --store STORE"
    if not facts.get("initialized_from"):
        return command
    first = f"{prefix}horovod-asl train --config FIRST.yaml --store STORE --run-folder FIRST"
    return f"{first}\n    {command} --pretrained FIRST"


def _first(facts: Mapping[str, Any]) -> str:
    """The config of the run that this one began with, where it began with one."""
    begun = facts.get("initialized_from")
    if not begun:
        return ""
    config = f"```yaml\n{begun['config']}```"
    return f"It began with the weights of a run whose config, FIRST.yaml above, is:\n\n{config}\n\n"


def _chosen(config: Path) -> str:
    """What validation was for, where the config is kept."""
    if not config.is_file():
        return ""
    last = RunFolder(config.parent).config().last_epoch
    return " (its last epoch was taken, whatever validation said)" if last else ", to choose the epoch"


def _short(facts: Mapping[str, Any]) -> dict[str, Any]:
    names = ("backend", "world_size", "global_batch", "steps", "precision", "device")
    settings = facts.get("settings", {})
    return {name: settings[name] for name in names if name in settings} | dict(facts.get("versions", {}))


def _table(rows: Sequence[Row]) -> str:
    return "\n".join([_HEAD, *(_score_row(name, row) for name, row in rows)]) if rows else "Not scored."


def _score_row(name: str, row: Mapping[str, Any]) -> str:
    seen, rest = row.get("photos_in_training"), row.get("without_j_z")
    if row.get("in_training_unknown_because"):
        seen = UNKNOWN
    cells = [
        name,
        _thousands(row["n"]),
        "–" if seen is None else _thousands(seen),
        f"{row['top1']:.2%}",
        f"{rest['top1']:.2%}" if rest else "–",
        f"{row['macro_f1']:.3f}",
        f"{row.get('temperature', 1):.2f}",
        *(f"{row.get(f'{key}_calibrated', row[key]):.3f}" for key in ("nll", "ece")),
    ]
    return f"| {' | '.join(cells)} |"


def _thousands(number: Any) -> str:
    return f"{number:,}" if isinstance(number, int) else str(number)
