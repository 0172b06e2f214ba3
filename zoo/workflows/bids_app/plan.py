"""Plans a BIDS-App: which sessions of a data set to run, and which of their images make one result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from zoo.datasets.left_out import tell_once
from zoo.datasets.readers import bids
from zoo.datasets.readers.bids import Name, Session, Survey, session_name
from zoo.errors import unknown_choice
from zoo.hub.card import Card
from zoo.hub.tabular import Value
from zoo.volumes.scan_files import describe

ADVICE = "Name an entity that tells them apart: --pattern {channel}=run-1_{pattern}."
DATATYPES = ("anat", "dwi", "func")  # where the standard knows segmentations
NOT_IMAGES = {*bids.LABEL_SUFFIXES, "probseg", "bold", "sbref", "dwi", "epi"}  # what no network takes by itself
_OWN = ("desc", "label", "res", "den")  # entities of a derivative, which a result of ours has its own of


@dataclass(frozen=True)
class PlannedCase:
    """Describes one result to make, in plain values that any process can receive.

    Attributes:
        name: of the case ("sub-01_ses-02_run-1").
        images: channel name -> file.
        sources: the same files as BIDS URIs.
        target: path of the result in the derivatives' folder, without BIDS suffix and extension
            ("sub-01/ses-02/anat/sub-01_ses-02_run-1_desc-zooUnet3dBrainMask").
        tabular: values beside the images.
    """

    name: str
    images: dict[str, str]
    sources: list[str]
    target: str
    tabular: dict[str, Value] = field(default_factory=dict)


def make_description(name: str) -> str:
    """Returns the `desc` entity of a model's results: "zooUnet3dBrainMask" for "unet3d.brain_mask"."""
    return "zoo" + "".join(part.capitalize() for part in name.replace(".", "_").split("_"))


def choose(
    survey: Survey,
    *,
    participants: Sequence[str] = (),
    sessions: Sequence[str] = (),
    shard: tuple[int, int] = (1, 1),
) -> list[Session]:
    """Returns the requested sessions, sorted.

    Args:
        survey: of the data set.
        participants: labels, with or without "sub-"; none for all.
        sessions: labels, with or without "ses-"; none for all.
        shard: (k, n) takes every n-th of the chosen participants from the k-th on: the n shards of the same choice
            share no participant and leave none out.

    Raises:
        ValueError: a label that is not in the data set, or a shard that is not one of 1 to n.
    """
    number, of = shard
    if not 1 <= number <= of:
        raise ValueError(f"A shard is K/N with K from 1 to N, got {number}/{of}.")
    known = sorted(survey.sessions + survey.bare)
    subjects = _check_known("participant", participants, "sub-", {subject for subject, _ in known})
    selected = _check_known("session", sessions, "ses-", {session for _, session in known if session})
    shard_subjects = set(sorted(subjects)[number - 1 :: of])
    return [pair for pair in known if pair[0] in shard_subjects and (not sessions or pair[1] in selected)]


def _check_known(kind: str, labels: Sequence[str], prefix: str, known: set[str]) -> set[str]:
    requested = {label.removeprefix(prefix) for label in labels}
    for label in requested - known:
        raise unknown_choice(kind, label, known)
    return requested or known


def choose_patterns(survey: Survey, card: Card, overrides: Mapping[str, str]) -> dict[str, str]:
    """Returns channel name -> entities and suffix: as overridden, or the channel's own name.

    Args:
        survey: of the data set.
        card: of the model.
        overrides: channel name -> entities and suffix, for some channels or all.

    Raises:
        ValueError: a channel that the model does not have; or a model of any contrast, and not exactly one contrast
            in the data set.
    """
    names = [channel.name for channel in card.input.channels]
    for name in overrides:
        if name not in names:
            raise unknown_choice(f"channel of {card.name}", name, names)
    patterns = {name: overrides.get(name, name) for name in names}
    if len(names) > 1 or overrides or any(name.fits(names[0]) for name in survey.raw + survey.derived):
        return patterns
    suffixes = sorted({name.suffix for name in survey.raw if not name.is_complex_part} - NOT_IMAGES)
    if len(suffixes) == 1:
        return {names[0]: suffixes[0]}
    there = f"has {', '.join(suffixes)}" if suffixes else "has none that a network takes"
    raise ValueError(
        f"{card.name} takes the channel {names[0]!r}, and the data set {there}. Say which is meant: "
        f"--pattern {names[0]}={suffixes[0] if suffixes else 'T1w'}."
    )


def plan(
    survey: Survey, sessions: Sequence[Session], card: Card, patterns: Mapping[str, str]
) -> tuple[list[PlannedCase], dict[str, str]]:
    """Lists every result to make, and why some cannot be made.

    A model of one channel runs on every image that fits, each by itself; a model of several channels takes one image
    per channel from a session.

    Args:
        survey: of the data set.
        sessions: as `choose` returns them.
        card: of the model.
        patterns: as `choose_patterns` returns them.

    Returns:
        The cases; and name of a session -> why it cannot be run, in one line.
    """
    parts = [item for item in survey.complex_parts(patterns.values()) if Name.of(item.path).session in sessions]
    if parts:
        tell_once(f"{survey.root}: {describe(parts, survey.root)}")
    cases: dict[str, PlannedCase] = {}
    failed: dict[str, str] = {}
    for session in sessions:
        try:
            for images in _group_images(survey, session, patterns):
                case = _make_case(survey, session, images, card)
                if case.target in cases:
                    raise ValueError(_word_clash(cases[case.target], case))
                cases[case.target] = case
        except ValueError as error:
            failed[session_name(session)] = str(error)
    return list(cases.values()), failed


def _word_clash(first: PlannedCase, second: PlannedCase) -> str:
    files = [Path(next(iter(case.images.values()))).name for case in (first, second)]
    return f"{files[0]} and {files[1]} would give one result, {second.target}. Choose one: --pattern."


def _group_images(survey: Survey, session: Session, patterns: Mapping[str, str]) -> list[dict[str, Name]]:
    """Groups the images of a session into results: channel name -> image."""
    images_by_channel = {channel: survey.images(session, pattern) for channel, pattern in patterns.items()}
    missing = [pattern for channel, pattern in patterns.items() if not images_by_channel[channel]]
    if missing:
        held = sorted({_name_kind(name) for name in survey.raw if name.session == session})
        raise ValueError(
            f"No {', '.join(missing)} in {session_name(session)}, which holds {', '.join(held) or 'no NIfTI image'}."
        )
    if len(images_by_channel) == 1:
        ((channel, images),) = images_by_channel.items()
        return [{channel: image} for image in images]
    for channel, images in images_by_channel.items():
        if len(images) > 1:
            names = ", ".join(image.path.name for image in images)
            advice = ADVICE.format(channel=channel, pattern=patterns[channel])
            raise ValueError(f"{session_name(session)} has {len(images)} images for {channel}: {names}. {advice}")
    return [{channel: images[0] for channel, images in images_by_channel.items()}]


def _name_kind(name: Name) -> str:
    """Returns a suffix, with the part of a complex image where it is not the magnitude."""
    return f"part-{name.entities['part']}_{name.suffix}" if name.is_complex_part else name.suffix


def _make_case(survey: Survey, session: Session, images: Mapping[str, Name], card: Card) -> PlannedCase:
    first = next(iter(images.values()))
    shared = {key: value for key, value in first.entities.items() if key not in _OWN}
    for image in images.values():
        shared = {key: value for key, value in shared.items() if image.entities.get(key) == value}
    name = "_".join(f"{key}-{value}" for key, value in shared.items())
    datatype = first.path.parent.name if first.path.parent.name in DATATYPES else "anat"
    folder = "/".join([*session_name(session).split("_"), datatype])
    row = survey.rows.get(f"sub-{session[0]}", {})
    return PlannedCase(
        name=name,
        images={channel: str(image.path) for channel, image in images.items()},
        sources=[f"bids:raw:{image.path.relative_to(survey.root).as_posix()}" for image in images.values()],
        target=f"{folder}/{name}_desc-{make_description(card.name)}",
        tabular={field.name: row[field.name] for field in card.input.tabular if field.name in row},
    )
