"""BIDS data sets: `dataset_description.json`, entities in file names, label maps among the derivatives.

Source: Gorgolewski et al., The brain imaging data structure, Scientific Data 2016, 10.1038/sdata.2016.44. Also reads
what is BIDS but for its description (ISLES 2022: `sub-strokecase0001/ses-0001/`, masks in `derivatives`).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from zoo.datasets.cases import Case, stem
from zoo.datasets.layout import Cells, find_scans, only_file, read_object, read_table, require_cases
from zoo.datasets.left_out import PARTS
from zoo.datasets.readers import isles2024
from zoo.datasets.stroke_columns import with_known_names
from zoo.volumes.scan_files import LeftOut, describe

FILE = "dataset_description.json"
COMPLEX_PARTS = ("phase", "real", "imag")
LABEL_SUFFIXES = ("dseg", "msk", "mask")
WEIGHTED = {"t1": "t1w", "t2": "t2w", "pd": "pdw"}  # what a channel may be called, and BIDS's own suffix
Session = tuple[str, str]  # labels of subject and session; the latter is empty where there is none
_ENTITY = re.compile(r"([a-zA-Z]+)-([a-zA-Z0-9+]+)")


@dataclass(frozen=True)
class Name:
    """A BIDS file name: its entities ({"sub": "01", "ses": "02"}), its suffix ("T1w") and the file."""

    entities: dict[str, str]
    suffix: str
    path: Path

    @classmethod
    def of(cls, path: Path) -> "Name":
        """Takes a file name apart; what is neither an entity nor the last part is passed over."""
        *parts, suffix = stem(path).split("_")
        pairs = (_ENTITY.fullmatch(part) for part in parts)
        return cls({pair[1]: pair[2] for pair in pairs if pair}, suffix, path)

    def fits(self, pattern: str) -> bool:
        """Returns whether suffix, in any case and with or without its w, and each entity named are those of a pattern.

        A phase, real or imaginary part fits only a pattern that names its part: it is no picture of anatomy.
        """
        expected = Name.of(Path(pattern))
        if self.is_complex_part and "part" not in expected.entities:
            return False
        ours, theirs = (WEIGHTED.get(name.lower(), name.lower()) for name in (self.suffix, expected.suffix))
        return ours == theirs and expected.entities.items() <= self.entities.items()

    @property
    def is_complex_part(self) -> bool:
        """Whether it is the phase, real or imaginary part of a complex image, not its magnitude."""
        return self.entities.get("part") in COMPLEX_PARTS

    @property
    def session(self) -> Session:
        """Subject and session; the session is empty where there is none."""
        return self.entities.get("sub", ""), self.entities.get("ses", "")


@dataclass(frozen=True)
class Survey:
    """What a data set holds.

    Attributes:
        root: the data set.
        raw: names of its raw images.
        derived: names of the images among its derivatives.
        rows: participant ("sub-01") -> columns of its tables.
    """

    root: Path
    raw: list[Name]
    derived: list[Name]
    rows: dict[str, Cells]

    @property
    def sessions(self) -> list[Session]:
        """Subject and session of every raw image, sorted; the session is empty where there is none."""
        return sorted({name.session for name in self.raw})

    @property
    def bare(self) -> list[Session]:
        """Participants whose folders hold no image that can be read, each as a session without a label."""
        folders = {path.name.removeprefix("sub-") for path in self.root.glob("sub-*") if path.is_dir()}
        return [(subject, "") for subject in sorted(folders - {subject for subject, _ in self.sessions})]

    def images(self, session: Session, pattern: str) -> list[Name]:
        """Lists the images of a session that fit a pattern: raw ones, and where there is none the derivatives."""
        raw, derived = (
            [name for name in part if name.session == session and name.fits(pattern)]
            for part in (self.raw, self.derived)
        )
        return raw or derived

    def complex_parts(self, patterns: Iterable[str]) -> list[LeftOut]:
        """Lists the raw images that only their part keeps from fitting a pattern."""
        names = [name for name in self.raw if name.is_complex_part]
        magnitudes = [Name({**name.entities, "part": "mag"}, name.suffix, name.path) for name in names]
        return [LeftOut(name.path, PARTS) for name in magnitudes if any(map(name.fits, patterns))]


def session_name(session: Session) -> str:
    """Returns the name of a session in files: "sub-01_ses-02", or "sub-01" where it has no label."""
    return f"sub-{session[0]}_ses-{session[1]}" if session[1] else f"sub-{session[0]}"


def fits(root: Path) -> bool:
    """Looks for a description, or subjects with modality folders; VALDO's flat subject folders are not BIDS."""
    if isles2024.fits(root):
        return False
    described = (root / FILE).is_file() and "BIDSVersion" in read_object(root / FILE)
    return described or any(any(root.glob(f"sub-*/{part}*")) for part in ("ses-", "anat", "dwi", "perf"))


def read(root: Path, *, channels: Mapping[str, str] | None = None, labels: str | None = None) -> list[Case]:
    """Lists one case a session.

    A file is named by its suffix and as many entities as tell it apart: "T1w", "acq-high_T1w",
    "space-T1w_desc-preproc_FLAIR"; "T1" is "T1w".

    Args:
        root: the data set.
        channels: channel name -> entities and suffix; None takes the suffixes of the raw images that every
            session has. The raw images are searched first, then the derivatives.
        labels: the same for the label map, searched among the derivatives first; None takes a "dseg", "msk" or
            "mask" (not that of the brain) where a session has exactly one.

    Returns:
        Cases with the columns of participants.tsv and of the tables in `phenotype` as tabular data; what
        `zoo.datasets.stroke_columns` knows is there under its name and in its unit, too.

    Raises:
        ValueError: no subject, a channel missing in a session, or several files for one, with their names.
    """
    listing = survey(root)
    patterns = dict(channels or _find_shared_suffixes(listing.raw, listing.sessions))
    return require_cases(
        [_make_case(listing, session, patterns, labels) for session in listing.sessions],
        root,
        "sub-*/ with NIfTI files",
    )


def survey(root: Path) -> Survey:
    """Takes the names of all images of a data set apart; opens none of them."""
    raw = _list_names(root, find_scans(root, "sub-*/**/*"))
    return Survey(root, raw, _list_names(root, find_scans(root, "derivatives/**/*")), _read_tables(root))


def _read_tables(root: Path) -> dict[str, Cells]:
    """Reads participant -> columns of all tables, those of participants.tsv first."""
    rows: dict[str, Cells] = {}
    for path in [root / "participants.tsv", *sorted((root / "phenotype").glob("*.tsv"))]:
        for key, row in read_table(path, delimiter="\t").items():
            rows[key] = {**row, **rows.get(key, {})}
    return {key: with_known_names(row) for key, row in rows.items()}


def _list_names(root: Path, paths: list[Path]) -> list[Name]:
    """Reads the names of files; subject and session that one leaves out are those of its folders."""
    names = []
    for path in paths:
        name = Name.of(path)
        parts = (_ENTITY.fullmatch(part) for part in path.relative_to(root).parts[:-1])
        folders = {part[1]: part[2] for part in parts if part and part[1] in ("sub", "ses")}
        names.append(Name({**folders, **name.entities}, name.suffix, path))
    return [name for name in names if "sub" in name.entities]


def _find_shared_suffixes(raw: list[Name], sessions: list[Session]) -> dict[str, str]:
    """Finds the suffixes of raw 3D images that every session has, label maps left out."""
    anatomy = [name for name in raw if not name.is_complex_part]
    sets = [{name.suffix for name in anatomy if name.session == session} for session in sessions]
    shared = sorted(set.intersection(*sets) - set(LABEL_SUFFIXES) - {"bold", "dwi"}) if sets else []
    if sets and not shared:
        seen = sorted(set.union(*sets))
        raise ValueError(f"No suffix is in every session; there are {', '.join(seen)}. Name the channels: channels=.")
    return {suffix: suffix for suffix in shared}


def _make_case(listing: Survey, session: Session, patterns: Mapping[str, str], labels: str | None) -> Case:
    key, subject = session_name(session), f"sub-{session[0]}"
    advice = "Name an entity that tells them apart, as in 'run-1_T1w'."
    _check_parts(listing, session, patterns)
    files = {
        ours: only_file([name.path for name in listing.images(session, pattern)], f"channel {pattern!r}", key, advice)
        for ours, pattern in patterns.items()
    }
    raw, derived = ([name for name in part if name.session == session] for part in (listing.raw, listing.derived))
    return Case(key, subject, files, _find_labels(raw, derived, labels, key), dict(listing.rows.get(subject, {})))


def _check_parts(listing: Survey, session: Session, patterns: Mapping[str, str]) -> None:
    """Raises where a session has a channel in parts of a complex image alone."""
    there = replace(listing, raw=[name for name in listing.raw if name.session == session])
    for pattern in patterns.values():
        parts = there.complex_parts([pattern])
        if parts and not listing.images(session, pattern):
            text = describe(parts, parts[0].path.parent)
            raise ValueError(f"Case {session_name(session)} has no channel {pattern!r}; {text}.")


def _find_fitting(names: list[Name], pattern: str) -> list[Path]:
    return [name.path for name in names if name.fits(pattern)]


def _find_labels(raw: list[Name], derived: list[Name], pattern: str | None, key: str) -> Path | None:
    if pattern:
        paths = _find_fitting(derived, pattern) or _find_fitting(raw, pattern)
        return only_file(paths, f"label map {pattern!r}", key, "Name an entity that tells them apart.")
    for suffix in LABEL_SUFFIXES:
        paths = [name.path for name in derived + raw if name.suffix == suffix and not _of_brain(name)]
        if paths:
            return only_file(paths, "label map", key, "Name one: labels='desc-lesion_mask'.")
    return None


def _of_brain(name: Name) -> bool:
    return "brain" in (name.entities.get("desc"), name.entities.get("label"))
