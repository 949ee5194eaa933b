"""Two real recommenders, trained at start-up, whose scores mean the same thing.

`item-cf` is item-based collaborative filtering (Sarwar et al. 2001): the cosine of two films over the users who liked
them, shrunk where few did, the 50 nearest neighbours of each film kept. `ease` is the shallow autoencoder of Steck
(2019): ridge regression of every film on all others, in closed form. On the held-out fifth of MovieLens 100k EASE is
truly the better one: NDCG@10 0.186 against 0.169, a paired difference of 0.016 ± 0.004. (Popularity alone: 0.098.)

Both rank by their own raw score and *report* the rating that the user is expected to give, 1 to 5: a logistic
regression on the user's mean rating and the raw score, fitted on the last fifth of the training ratings by models that
have not seen them. So a score of 4.1 means the same from either, whatever the order.
"""

from __future__ import annotations

import enum
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shadowproxy.demo.data import LIKED, Dataset, Ratings, is_late
from shadowproxy.errors import StartError

Floats = NDArray[np.float64]

DEPTH = 20
"""Longest list a model gives."""
_NEIGHBOURS = 50
_SHRINKAGE = 10.0
_RIDGE = 200.0
_PRIOR_RATINGS = 5.0
_FORMAT = 1


class Model(enum.StrEnum):
    """What can rank."""

    ITEM_CF = "item-cf"
    EASE = "ease"
    POPULARITY = "popularity"


@dataclass(frozen=True, slots=True)
class Lists:
    """What one model recommends: for each of U users the best `DEPTH` items that they have not rated, best first."""

    items: NDArray[np.int32]
    """(U, DEPTH): positions in the dataset's items."""
    scores: Floats
    """(U, DEPTH): expected ratings, 1 to 5, falling along each row."""
    ndcg: float
    """Mean NDCG@10 against the held-out truth, over the users who have one."""


@dataclass(frozen=True, slots=True)
class Trained:
    """All that a service needs to answer: the models' lists, and whom and what they are about."""

    source: str
    users: tuple[str, ...]
    cohorts: tuple[Mapping[str, str], ...]
    items: tuple[str, ...]
    titles: tuple[str, ...]
    lists: Mapping[Model, Lists]
    cold: tuple[NDArray[np.int32], Floats]
    """What an unknown user gets: the most liked items, and their expected ratings; each (DEPTH,)."""


def item_cf(likes: Floats) -> Floats:
    """Raw scores (users, items) by shrunk cosine over the nearest neighbours. `likes` is 0/1, (users, items)."""
    together = likes.T @ likes
    popularity = np.sqrt(np.diag(together))
    cosine = together / np.maximum(np.outer(popularity, popularity), 1.0)
    similar = cosine * together / (together + _SHRINKAGE)
    np.fill_diagonal(similar, 0.0)
    nth = -np.partition(-similar, min(_NEIGHBOURS, len(similar)) - 1, axis=0)[min(_NEIGHBOURS, len(similar)) - 1]
    similar[similar < nth] = 0.0
    scores: Floats = likes @ similar
    return scores


def ease(likes: Floats) -> Floats:
    """Raw scores (users, items) by EASE: B = I − P·diag(P)⁻¹ with P = (XᵀX + λI)⁻¹, zero diagonal."""
    gram = likes.T @ likes
    gram[np.diag_indices_from(gram)] += _RIDGE
    precision = np.linalg.inv(gram)
    weights = -precision / np.diag(precision)
    np.fill_diagonal(weights, 0.0)
    scores: Floats = likes @ weights
    return scores


def popularity(likes: Floats) -> Floats:
    """Raw scores (users, items): how many users liked the item, the same for every user."""
    return np.tile(likes.sum(axis=0), (len(likes), 1))


RANKERS: Mapping[Model, Callable[[Floats], Floats]] = {
    Model.ITEM_CF: item_cf,
    Model.EASE: ease,
    Model.POPULARITY: popularity,
}


def ndcg(lists: NDArray[np.int32], truth: NDArray[np.bool_], k: int = 10) -> Floats:
    """NDCG@k with binary gains of each list, (users,); NaN where the user has no truth.

    `lists` is (users, at least k) positions of items, `truth` (users, items).
    """
    discounts = 1 / np.log2(np.arange(2, k + 2))
    gained = np.take_along_axis(truth, lists[:, :k], axis=1) @ discounts
    wanted = np.minimum(truth.sum(axis=1), k)
    ideal = np.concatenate([[np.nan], np.cumsum(discounts)])[wanted]
    result: Floats = gained / ideal
    return result


def train(dataset: Dataset) -> Trained:
    """Fit every model on the training ratings. Deterministic; about two seconds on MovieLens 100k."""
    size = (len(dataset.users), len(dataset.items))
    seen = dataset.train.matrix(*size) > 0
    likes = _likes(dataset.train, size)
    truth = _likes(dataset.held_out, size) > 0
    calibrators = _calibrate(dataset, size)
    generosity = _generosity(dataset.train, size[0])
    lists = {}
    for model, rank in RANKERS.items():
        raw = rank(likes)
        top = _best(np.where(seen, -np.inf, raw))
        strength = np.take_along_axis(_strength(raw), top, axis=1)
        scores = calibrators[model].expected_rating(generosity[:, None], strength)
        lists[model] = Lists(top, scores, float(np.nanmean(ndcg(top, truth))))
    counts = likes.sum(axis=0, keepdims=True)
    favourites = _best(counts)[0]
    middling = np.array([[float(np.mean(generosity))]])
    rated = calibrators[Model.POPULARITY].expected_rating(middling, _strength(counts)[:, favourites])[0]
    return Trained(
        dataset.source,
        tuple(user.id for user in dataset.users),
        dataset.cohorts(),
        tuple(item.id for item in dataset.items),
        tuple(item.title for item in dataset.items),
        lists,
        (favourites, rated),
    )


def _likes(ratings: Ratings, size: tuple[int, int]) -> Floats:
    return ratings.matrix(*size, values=(ratings.values >= LIKED).astype(float))


def _best(raw: Floats) -> NDArray[np.int32]:
    """The `DEPTH` highest of each row, best first; ties by position, so that the order never varies."""
    order: NDArray[np.int32] = np.argsort(-raw, axis=1, kind="stable")[:, :DEPTH].astype(np.int32)
    return order


def _strength(raw: Floats) -> Floats:
    """Raw scores on one scale for all users and models: log(1 + standard deviations above the user's mean).

    The logarithm because evidence saturates: the best item of a clear taste stands ten deviations out.
    """
    spread = np.maximum(raw.std(axis=1, keepdims=True), 1e-9)
    result: Floats = np.log1p(np.maximum((raw - raw.mean(axis=1, keepdims=True)) / spread, 0.0))
    return result


def _generosity(ratings: Ratings, users: int) -> Floats:
    """Each user's mean rating in logits of (rating − 1)/4, shrunk to everyone's by five ratings' worth."""
    overall = float(ratings.values.mean())
    sums = np.bincount(ratings.users, ratings.values, minlength=users) + _PRIOR_RATINGS * overall
    means = sums / (np.bincount(ratings.users, minlength=users) + _PRIOR_RATINGS)
    share = np.clip((means - 1) / 4, 0.02, 0.98)
    result: Floats = np.log(share / (1 - share))
    return result


@dataclass(frozen=True, slots=True)
class _Calibrator:
    """rating = 1 + 4·σ(a + b·generosity + c·strength), c ≥ 0 so that scores fall along every list."""

    weights: tuple[float, float, float]

    def expected_rating(self, generosity: Floats, strength: Floats) -> Floats:
        a, b, c = self.weights
        result: Floats = 1 + 4 / (1 + np.exp(-(a + b * generosity + c * strength)))
        return result


def _calibrate(dataset: Dataset, size: tuple[int, int]) -> Mapping[Model, _Calibrator]:
    late = is_late(dataset.train.users, size[0], 0.2)
    early, shown = dataset.train.where(~late), dataset.train.where(late)
    likes = _likes(early, size)
    generosity = _generosity(early, size[0])[shown.users]
    target = (shown.values - 1) / 4
    fitted = {}
    for model, rank in RANKERS.items():
        strength = _strength(rank(likes))[shown.users, shown.items]
        fitted[model] = _Calibrator(_logistic(np.column_stack([np.ones_like(target), generosity, strength]), target))
    return fitted


def _logistic(inputs: Floats, target: Floats) -> tuple[float, float, float]:
    """Quasi-binomial regression by Newton's method, with a ridge that only matters for degenerate data."""
    weights = np.zeros(inputs.shape[1])
    for _ in range(25):
        fitted = 1 / (1 + np.exp(-inputs @ weights))
        gradient = inputs.T @ (target - fitted) - 1e-3 * weights
        curvature = (inputs * (fitted * (1 - fitted))[:, None]).T @ inputs + 1e-3 * np.eye(len(weights))
        step = np.linalg.solve(curvature, gradient)
        weights += step
        if float(np.abs(step).max()) < 1e-10:
            break
    return float(weights[0]), float(weights[1]), max(float(weights[2]), 1e-3)


def train_or_load(dataset: Dataset, folder: Path | None = None) -> tuple[Path, Trained]:
    """The trained models and the file that holds them, for the services to share; trained only if it isn't there.

    `folder` defaults to `shadowproxy-demo-<uid>` among the temporary files. The file's name carries a fingerprint of
    the data. Raises StartError if the folder can't be written or belongs to someone else.
    """
    folder = folder if folder is not None else Path(tempfile.gettempdir()) / f"shadowproxy-demo-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            raise StartError(f"{folder} belongs to another user; set TMPDIR to a folder of your own")
        path = folder / f"models-v{_FORMAT}-{dataset.digest()}.npz"
        if path.exists():
            return path, read(path)
        trained = train(dataset)
        _write(path, trained)
    except OSError as error:
        raise StartError(f"{folder}: the trained models can't be kept there: {error.strerror or error}") from None
    return path, trained


def _write(path: Path, trained: Trained) -> None:
    columns: dict[str, NDArray[np.generic]] = {
        "source": np.array(trained.source),
        "users": np.array(trained.users),
        "dimensions": np.array(list(trained.cohorts[0])),
        "cohorts": np.array([list(cohort.values()) for cohort in trained.cohorts]),
        "items": np.array(trained.items),
        "titles": np.array(trained.titles),
        "cold.items": trained.cold[0],
        "cold.scores": trained.cold[1],
    }
    for model, lists in trained.lists.items():
        columns[f"{model}.items"] = lists.items
        columns[f"{model}.scores"] = lists.scores
        columns[f"{model}.ndcg"] = np.array(lists.ndcg)
    # Written aside and moved, so that a service never reads half a file.
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as part:
        # Its stubs take any keyword for its own `allow_pickle`.
        np.savez(part, **columns)  # type: ignore[arg-type]
    Path(part.name).replace(path)


def read(path: Path) -> Trained:
    """The models from a file that `train_or_load` wrote. Raises StartError if it can't be read."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            columns = {name: held[name] for name in held.files}
        dimensions = columns["dimensions"].tolist()
        return Trained(
            str(columns["source"]),
            tuple(columns["users"].tolist()),
            tuple(dict(zip(dimensions, row, strict=True)) for row in columns["cohorts"].tolist()),
            tuple(columns["items"].tolist()),
            tuple(columns["titles"].tolist()),
            {
                model: Lists(columns[f"{model}.items"], columns[f"{model}.scores"], float(columns[f"{model}.ndcg"]))
                for model in Model
            },
            (columns["cold.items"], columns["cold.scores"]),
        )
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise StartError(f"{path} can't be read as trained models ({error}); delete it and start again") from None
