"""What is in a store: counts per class, recording and split, hands, duplicates across splits, a contact sheet.

    horovod-asl inspect stores/asl
    horovod-asl inspect stores/asl --contact-sheet sheet.png --json facts.json
    horovod-asl inspect stores/asl --verify

A photo is a duplicate across splits if its bytes, or a picture that cannot be told from it, are in another
split: then a score on the later split is partly memory. `prepare` refuses such stores unless the split is
`random`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from rich.table import Table
from tyro.conf import Positional, arg

from horovod_asl.command_line.checks import require_range
from horovod_asl.command_line.cli import parse
from horovod_asl.errors import UserError
from horovod_asl.splits.split import SPLITS
from horovod_asl.store.contact_sheet import MAX_COLUMNS, contact_sheet
from horovod_asl.store.inspection import Inspection, inspect_store
from horovod_asl.store.store import Store

SHOWN_PAIRS = 5
SHOWN_CLASSES = 3


@dataclass(frozen=True)
class InspectConfig:
    """Flags of `inspect`."""

    store: Positional[Annotated[Path, arg(metavar="STORE")]]
    """A folder that `prepare` made."""

    contact_sheet: Path | None = None
    """Draw a picture of the store here: rows are classes, columns come from all recordings. In a store with hands
    each photo stands beside the crop around its hand, with the landmarks over it."""

    columns: int | None = None
    """Columns of the contact sheet; by default 12, and 8 in a store with hands."""

    json: Path | None = None
    """Write the same facts here as JSON."""

    verify: bool = False
    """Read every file and check its digest."""

    def __post_init__(self) -> None:
        require_range("--columns", self.columns, 1, MAX_COLUMNS)


def main(argv: list[str]) -> int:
    """Print what is in a store."""
    config = parse(InspectConfig, argv, prog="horovod-asl inspect", description=__doc__)
    store = Store.open(config.store, verify=config.verify)
    facts = inspect_store(store)
    _print_facts(facts, verified=config.verify)
    if config.json is not None:
        text = json.dumps(asdict(facts), indent=1) + "\n"
        _written(config.json, lambda path: path.write_text(text, encoding="utf-8"))
    if config.contact_sheet is not None:
        sheet = contact_sheet(store, columns=config.columns)
        _written(config.contact_sheet, lambda path: sheet.save(path, "PNG"))
    return 0


def _print_facts(facts: Inspection, *, verified: bool) -> None:
    console = Console(highlight=False, soft_wrap=True)
    copies = f" and {facts.copies} degraded copies for training" if facts.copies else ""
    checked = ", every digest checked" if verified else ""
    console.print(
        f"{facts.store}: {facts.photos} photos{copies}, {facts.image_size} px, digest {facts.digest[:12]}{checked}"
    )
    console.print(_recordings_table(facts))
    console.print(_classes_table(facts))
    if facts.hands:
        _print_hands(console, facts)
        console.print(_hands_table(facts))
    _print_duplicates(console, facts)
    for reason, count in facts.left_out.items():
        console.print(f"left out: {count} photos, {reason} (see problems.csv)", markup=False)


def _recordings_table(facts: Inspection) -> Table:
    table = _table("source", "recording", *SPLITS, "classes")
    for row in facts.recordings:
        counts = [_count(row[split]) for split in SPLITS]
        table.add_row(row["source"], row["recording"], *counts, str(row["classes"]))
    table.add_section()
    table.add_row("all", "", *[_count(facts.splits[split]) for split in SPLITS], "")
    return table


def _classes_table(facts: Inspection) -> Table:
    table = _table("class", *SPLITS, *(["found"] if facts.hands else []))
    for name, counts in facts.classes.items():
        own = facts.hands_by_class.get(name)
        found = [_percent(own["found"], own["photos"])] if own else []
        table.add_row(name, *[_count(counts[split]) for split in SPLITS], *found)
    return table


def _print_hands(console: Console, facts: Inspection) -> None:
    """In how many photos a hand was found, where least often, and how sure that is."""
    signs = _sum(row for row in facts.hands if row["of"] == "signs")
    photos, found = signs["photos"], signs["found"]
    if photos:
        console.print(f"a hand in {found:,} of {photos:,} photos of signs ({_percent(found, photos)})")
    signed = {name: own for name, own in facts.hands_by_class.items() if name != "nothing"}
    fractions = ((own["found"] / own["photos"], name) for name, own in signed.items())
    worst = sorted((fraction, name) for fraction, name in fractions if fraction < 1)[:SHOWN_CLASSES]
    if worst:
        console.print(f"  least often in {', '.join(f'{name} ({fraction:.1%})' for fraction, name in worst)}")
    if found:
        right, left = _percent(signs["right"], found), _percent(found - signs["right"], found)
        console.print(f"  {right} are right hands and {left} left ones, as MediaPipe sees it")
    if signs["dark"]:
        console.print(f"  {signs['dark']:,} are dark, and were searched in a lighter copy")
    if signs["late"]:
        console.print(f"  {signs['late']:,} were found at a late attempt, and confirmed once more")
    if signs["unconfirmed"]:
        console.print(f"  {signs['unconfirmed']:,} more were seen but not confirmed, and do not count as found")
    nothing = _sum(row for row in facts.hands if row["of"] == "nothing")
    if nothing["photos"]:
        console.print(f"a hand in {nothing['found']:,} of {nothing['photos']:,} photos of `nothing`")


def _sum(rows: Iterable[dict[str, Any]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for row in rows:
        total.update({name: count for name, count in row.items() if isinstance(count, int)})
    return total


def _hands_table(facts: Inspection) -> Table:
    table = _table("hands of", "", "photos", "found", "late", "unconfirmed", "right hands")
    for row in facts.hands:
        percents = [_percent(row[name], row["photos"]) for name in ("found", "late", "unconfirmed")]
        table.add_row(
            row["source"], row["of"], str(row["photos"]), *percents, _percent(row["right"], row["found"])
        )
    return table


def _table(*headings: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in headings:
        is_text = heading in ("source", "recording", "class", "hands of", "")
        table.add_column(heading, justify="left" if is_text else "right")
    return table


def _count(number: int) -> str:
    return str(number) if number else "–"


def _percent(count: int, of: int) -> str:
    return f"{count / of:.1%}" if of else "–"


def _print_duplicates(console: Console, facts: Inspection) -> None:
    duplicates = facts.duplicates
    console.print(f"duplicates across splits: {duplicates['across_splits']}")
    for pair in duplicates["pairs"][:SHOWN_PAIRS]:
        how = "same bytes" if pair["exact"] else "same picture"
        text = f"  {pair['split']} {pair['photo']} = {pair['also_in']} {pair['as']} ({how})"
        console.print(text, markup=False)
    if duplicates["repeated_bytes"]:
        console.print(f"photos whose bytes occur more than once: {duplicates['repeated_bytes']}")


def _written(path: Path, write: Callable[[Path], object]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}): choose another place"
        ) from error
    print(f"wrote {path}")
