"""Finds the dipoles of a window of samples, how many there are, and where else each of them could be."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import stats

from zoo.eeg import decode, grid
from zoo.eeg.dipole_search import Dipole, DipoleSearch, between_places, dipole_position
from zoo.eeg.sparse_bayes import Window, learn_current

LEVEL = 0.1  # of one more source where there is none
_PLACES = 100.0  # independent places that a further source is chosen among
_LEAST_SHARE = 0.004  # of what is explained: errors of the head model look like weak sources
_ALTERNATIVES = 2  # starting points for each number of sources
_PARAMETERS = 3
_SWEEPS = 16
_LEAST_MASS = 1e-3
_DOUBTFUL, _HOPELESS = 0.5, 0.9  # chances above which a source moves no other, and the search ends
_SUREST = 1e6  # largest odds


@dataclasses.dataclass(frozen=True)
class WindowSources:
    """The dipoles of a window.

    Attributes:
        dipoles: the one that explains most by itself first.
        explained: share of the window's power that all explain, 0 to 1, in units of the noise.
        own: (sources,) the part of it that is lost without each.
        noise: power of what they leave, over that of the noise that was assumed; about 1.
        places: (sources, places) probability of each place for each dipole, over all that the others could be.
        counts: (6,) probabilities of 0 to 5 sources.
        chance: probability that noise alone shows a first dipole as strong.
        current: (places,) length of the current that sparse Bayesian learning gives each place.
    """

    dipoles: tuple[Dipole, ...]
    explained: float
    own: np.ndarray
    noise: float
    places: np.ndarray
    counts: np.ndarray
    chance: float
    current: np.ndarray

    def confidences(self, masses: np.ndarray) -> np.ndarray:
        """Returns the probability that there is a source within 15 mm of each dipole, (sources,).

        Args:
            masses: (sources,) probability within 15 mm.

        Example:
            >>> found.confidences(np.array([0.98, 0.6]))  # doctest: +SKIP
            array([0.93, 0.41])
        """
        at_least = np.cumsum(self.counts[::-1])[::-1][1 : len(masses) + 1]
        return masses * np.minimum(at_least, 1.0)


def find_sources(window: Window, *, count: int | None = None, inside: np.ndarray | None = None) -> WindowSources:
    """Finds the dipoles that explain a window.

    Sparse Bayesian learning over all samples proposes places; alternating projections start from them and from the
    dipoles of one source less, and the better end counts. A source is added while it explains more than the best place
    would explain of noise (an F test with the independent samples of the window), and one percent of the whole.

    Args:
        window: of `sparse_bayes.make_window`.
        count: the number of sources; None for the most probable one above 0.
        inside: (places,) bool, where sources can be; None for everywhere.

    Example:
        >>> found = find_sources(make_window(samples, field.matrix, whitening))  # doctest: +SKIP
        >>> found.counts.argmax()  # doctest: +SKIP
        2
    """
    search = DipoleSearch(window, inside=inside)
    current = learn_current(window)
    if inside is not None:
        current = current * inside
    fits, chances = [list[Dipole]()], list[float]()
    for number in range(1, most_sources(window) + 1):
        fits.append(_best_fit(search, current, fits[-1], number))
        chances.append(_chance(search, fits[-2], fits[-1]))
        if number >= (count or 1) and chances[-1] > _HOPELESS:
            break
    counts = _to_probabilities(chances)
    number = int(counts[1:].argmax()) + 1 if count is None else count
    held = max([1, *(step for step, chance in enumerate(chances, start=1) if chance <= _DOUBTFUL and step <= number)])
    return _add_further(search, _describe(search, fits[held], counts, chances[0], current), number)


def describe_dipoles(search: DipoleSearch, dipoles: Sequence[Dipole], current: np.ndarray) -> WindowSources:
    """Describes dipoles that were found elsewhere, as a symmetric pair; their number is given, and they stay in place.

    Example:
        >>> describe_dipoles(search, [Dipole(2500), Dipole(2510)], current).counts.argmax()  # doctest: +SKIP
        2
    """
    counts = np.eye(decode.MAX_SOURCES + 1)[len(dipoles)]
    return _describe(search, list(dipoles), counts, _chance(search, [], list(dipoles)), current, centred=False)


def most_sources(window: Window) -> int:
    """Returns how many sources the channels can tell apart, 1 to 5: one for nine patterns.

    Example:
        >>> most_sources(Window(np.zeros((20, 3)), np.zeros((3, 20, 5)), 3.0, 1.0))
        2
    """
    return min(decode.MAX_SOURCES, max(1, len(window.data) // decode.CHANNELS_A_SOURCE))


def _add_further(search: DipoleSearch, found: WindowSources, number: int) -> WindowSources:
    """Adds dipoles that were asked for and that the data do not show, without moving those that they do."""
    dipoles, own, places = list(found.dipoles), found.own.tolist(), [*found.places]
    while len(dipoles) < number:
        explained, before = search.scan(dipoles), search.explained(dipoles)
        dipoles.append(between_places(explained, int(explained.argmax())))
        own.append((search.explained(dipoles) - before) / search.window.power)
        places.append(_place_probabilities(explained, max(found.noise, 1.0)))
    return dataclasses.replace(
        found,
        dipoles=tuple(dipoles),
        explained=search.explained(dipoles) / search.window.power,
        own=np.array(own),
        places=np.stack(places),
    )


def _best_fit(search: DipoleSearch, current: np.ndarray, fewer: list[Dipole], number: int) -> list[Dipole]:
    """Returns the better of two searches: from the peaks of the current, and from one dipole less."""
    starts = [search.add(fewer)]
    if current.any() and number > 1:
        starts.append(decode.peaks(current / current.sum(), number)[0].tolist())
    ends = [search.alternate(start) for start in starts[:_ALTERNATIVES]]
    return max(ends, key=search.explained)


def _chance(search: DipoleSearch, fewer: list[Dipole], more: list[Dipole]) -> float:
    """Returns the probability that the best of many places explains as much of noise as the last dipoles add."""
    window, least, most = search.window, search.explained(fewer), search.explained(more)
    gain = most - least
    if gain < _LEAST_SHARE * most:
        return 1.0
    numbers = _PARAMETERS * window.samples * _component_share(window)
    freedom = max(window.freedom - len(more) * _PARAMETERS * (window.samples + 1), 1.0)
    noise = max((window.power - most) / freedom, 1.0)
    single = float(stats.f.sf(gain / numbers / noise, numbers, freedom))
    return float(-np.expm1(_PLACES * np.log1p(-min(single, 1 - 1e-12))))


def _component_share(window: Window) -> float:
    """Returns the share of noise that a dipole finds in the leading components; its square is that of their freedom."""
    patterns, components = window.data.shape
    return float(np.sqrt(min(components * (patterns + window.samples - components) / window.freedom, 1.0)))


def _to_probabilities(chances: Sequence[float]) -> np.ndarray:
    """Returns probabilities of 0 to 5 sources, (6,), from the chance of each further one in noise."""
    odds = LEVEL / np.maximum(chances, LEVEL / _SUREST)
    reached = np.cumprod([1.0, *(odds / (1 + odds))])
    counts = np.zeros(decode.MAX_SOURCES + 1)
    counts[: len(reached)] = reached - np.append(reached[1:], 0.0)
    return counts / counts.sum()


def _describe(
    search: DipoleSearch,
    dipoles: list[Dipole],
    counts: np.ndarray,
    chance: float,
    current: np.ndarray,
    *,
    centred: bool = True,
) -> WindowSources:
    window, total = search.window, search.explained(dipoles)
    own = np.array([total - search.explained(_without(dipoles, number)) for number in range(len(dipoles))])
    dipoles = [dipoles[number] for number in np.argsort(-own)]
    used = len(dipoles) * _PARAMETERS * (window.samples + 1)
    noise = (window.power - total) / max(window.freedom - used, 1.0)
    places = sample_places(search, dipoles, noise=max(noise, 1.0))
    if centred:
        dipoles = [centre_dipole(dipole, row) for dipole, row in zip(dipoles, places, strict=True)]
    explained, shares = search.explained(dipoles) / window.power, np.sort(own)[::-1] / window.power
    return WindowSources(tuple(dipoles), explained, shares, noise, places, counts, chance, current)


def sample_places(
    search: DipoleSearch, dipoles: Sequence[Dipole], *, noise: float, sweeps: int = _SWEEPS
) -> np.ndarray:
    """Returns the probability of each place for each dipole, (sources, places), by Gibbs sampling.

    Each dipole in turn is drawn anew given the others, and the probabilities that it was drawn by are averaged: where
    another pair of places explains as much, both pairs have a share.

    Args:
        search: of the window.
        dipoles: to start from.
        noise: variance of what dipoles leave, over that assumed; errors of the head model are in it.
        sweeps: times that each is drawn.

    Example:
        >>> sample_places(search, [Dipole(2500)], noise=1.0).sum(1)  # doctest: +SKIP
        array([1.])
    """
    random, drawn = np.random.default_rng(0), list(dipoles)
    sums = np.zeros((len(drawn), search.window.columns.shape[2]))
    for _ in range(sweeps if len(drawn) > 1 else 1):
        for number in range(len(drawn)):
            explained = search.scan(_without(drawn, number))
            chances = _place_probabilities(explained, noise)
            sums[number] += chances
            drawn[number] = between_places(explained, int(random.choice(len(chances), p=chances)))
    return sums / np.maximum(sums.sum(1, keepdims=True), 1e-300)


def centre_dipole(dipole: Dipole, probabilities: np.ndarray) -> Dipole:
    """Returns the dipole between where it fits best and the mean of its probability within 25 mm.

    The mean errs less where many places are about as probable; the more one place has, the less the dipole moves.

    Args:
        dipole: the best fit.
        probabilities: (places,), its own.

    Example:
        >>> centre_dipole(Dipole(2500), np.eye(1, grid.NUM_PLACES, 2500)[0])
        Dipole(place=2500, offset=(0.0, 0.0, 0.0))
    """
    positions = grid.grid()[0].astype(float)
    best = dipole_position(dipole, positions)
    near = probabilities * (np.square(positions - best).sum(1) <= decode.APART_MM**2)
    if near.sum() < _LEAST_MASS:
        return dipole
    sure = float(probabilities.max())
    centre = sure * best + (1 - sure) * (near @ positions) / near.sum()
    place = int(np.square(positions - centre).sum(1).argmin())
    x, y, z = np.clip((centre - positions[place]) / grid.SPACING_MM, -0.5, 0.5).tolist()
    return Dipole(place, (x, y, z))


def _without(dipoles: Sequence[Dipole], number: int) -> list[Dipole]:
    return [*dipoles[:number], *dipoles[number + 1 :]]


def _place_probabilities(explained: np.ndarray, noise: float) -> np.ndarray:
    """Returns the probability of each place, from the sums of squares that a dipole explains there."""
    values = np.exp(0.5 * (explained.astype(float) - float(explained.max())) / noise)
    return values / values.sum()
