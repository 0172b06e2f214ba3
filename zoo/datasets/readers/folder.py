"""Plain folders: by pattern, or one subfolder a case with equal file names."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from zoo.datasets.cases import Case
from zoo.datasets.layout import Cells, by_stem, find_scans, only_file, read_table, require_cases
from zoo.datasets.stroke_columns import with_known_names

LABEL_WORDS = ("label", "mask", "seg", "lesion", "lacune", "truth")
DEEPER = " (--recursive takes folders at any depth)"
_PLACE = re.compile(r"\{(\w+)\}")


def fits(root: Path) -> bool:
    """Returns False: this layout is what remains when no other layout is recognised."""
    return False


def read(
    root: Path, *, channels: Mapping[str, str] | None = None, labels: str | None = None, recursive: bool = False
) -> list[Case]:
    """Lists cases by pattern.

    A pattern is a path below the folder with places in braces and `*` for what does not matter:
    `{"t1": "{id}/T1.nii.gz"}`, `{"t1": "images/{id}_T1w.nii.gz"}`, `{"t1": "{subject}/{session}/*T1*.nii.gz"}`. The
    places together are the case's id; `{subject}`, where there is one, its subject. Without patterns each subfolder
    is a case, each of its files a channel by its name, and a name with "label", "mask", "seg", "lesion", "lacune" or
    "truth" the label map. Tables beside them (`*.csv`, `*.tsv`; ids in the first column) give tabular data, what
    `zoo.datasets.stroke_columns` knows under its name and in its unit, too.

    Args:
        root: the folder.
        channels: channel name -> pattern.
        labels: pattern of the label maps; None reads the images alone.
        recursive: without patterns, each folder at any depth that holds scans is a case: "site-1_sub-01".

    Raises:
        ValueError: no case, a channel missing in one, several files for one, or a pattern without a place.
    """
    if channels is None:
        return require_cases(
            _add_tables(root, _list_subfolders(root, recursive=recursive)),
            root,
            f"one subfolder a case, each with NIfTI files of the same names{'' if recursive else DEEPER}",
        )
    matches_of = {name: _match_files(root, pattern) for name, pattern in channels.items()}
    masks = _match_files(root, labels) if labels else {}
    ids = sorted({key for matches in matches_of.values() for key in matches})
    cases = [_make_case(key, matches_of, masks, bool(labels)) for key in ids]
    return require_cases(_add_tables(root, cases), root, f"channels {dict(channels)}")


def _add_tables(root: Path, cases: list[Case]) -> list[Case]:
    """Returns the cases with the rows of their ids, or else of their subjects."""
    rows: dict[str, Cells] = {}
    for suffix, delimiter in ((".csv", ","), (".tsv", "\t")):
        for path in sorted(root.glob(f"*{suffix}")):
            rows |= {key: {**rows.get(key, {}), **row} for key, row in read_table(path, delimiter=delimiter).items()}
    cells = [rows.get(case.id, rows.get(case.subject, {})) for case in cases]
    return [replace(case, tabular=with_known_names(row)) for case, row in zip(cases, cells, strict=True)]


Matches = dict[str, list[tuple[Path, str]]]


def _match_files(root: Path, pattern: str) -> Matches:
    """Returns id -> files and subject, for the files that a pattern fits."""
    if not _PLACE.search(pattern):
        raise ValueError(
            f"The pattern {pattern!r} has no place for the case's id. Write one, as in '{{id}}/T1.nii.gz'."
        )
    expression = _compile_pattern(pattern)
    matches: Matches = {}
    for path in find_scans(root):
        match = re.fullmatch(expression, path.relative_to(root).as_posix())
        if match:
            key = "_".join(match.groupdict().values())
            matches.setdefault(key, []).append((path, match.groupdict().get("subject", key)))
    return matches


def _compile_pattern(pattern: str) -> str:
    seen: set[str] = set()

    def place(name: str) -> str:
        if name in seen:
            return f"(?P={name})"
        seen.add(name)
        return f"(?P<{name}>[^/]+?)"

    pieces = _PLACE.split(pattern)
    literal = [re.escape(piece).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*") for piece in pieces[::2]]
    places = [place(name) for name in pieces[1::2]] + [""]
    return "".join(text + hole for text, hole in zip(literal, places, strict=True))


def _make_case(key: str, channels: Mapping[str, Matches], masks: Matches, labelled: bool) -> Case:
    advice = "Make the pattern narrower."
    matches = {name: of.get(key, []) for name, of in channels.items()}
    files = {
        name: only_file([path for path, _ in of], f"channel {name!r}", key, advice) for name, of in matches.items()
    }
    mask = only_file([path for path, _ in masks.get(key, [])], "label map", key, advice) if labelled else None
    return Case(key, next(iter(matches.values()))[0][1], files, mask)


def _list_subfolders(root: Path, *, recursive: bool) -> list[Case]:
    cases = []
    deep = {path.parent for path in find_scans(root)} - {root} if recursive else ()
    for folder in sorted(deep or (path for path in root.iterdir() if path.is_dir())):
        key = "_".join(folder.relative_to(root).parts)
        files = by_stem(find_scans(folder, "*"), key)
        marked = [path for name, path in files.items() if any(word in name.lower() for word in LABEL_WORDS)]
        channels = {name: path for name, path in files.items() if path not in marked}
        if channels:
            mask = only_file(marked, "label map", key, "Give patterns for channels and labels.") if marked else None
            cases.append(Case(key, key, channels, mask))
    _check_equal(cases)
    return cases


def _check_equal(cases: list[Case]) -> None:
    every = {name for case in cases for name in case.channels}
    for case in cases:
        for name in sorted(every - set(case.channels)):
            only_file([], f"channel {name!r}, which other cases have", case.id, "")
