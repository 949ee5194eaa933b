from pathlib import Path

import numpy as np
import pytest

from shadowproxy.demo import data
from shadowproxy.demo.configuration import GUARDRAILS
from shadowproxy.demo.models import DEPTH, Model, Trained, ndcg, read, train, train_or_load
from shadowproxy.errors import StartError


def truth(dataset: data.Dataset) -> np.ndarray:
    return dataset.held_out.matrix(len(dataset.users), len(dataset.items)) >= data.LIKED


def check_better(dataset: data.Dataset, trained: Trained) -> None:
    """EASE's NDCG@10 is above item CF's by more than three standard errors, and both are above popularity's."""
    per_user = {model: ndcg(lists.items, truth(dataset)) for model, lists in trained.lists.items()}
    judged = ~np.isnan(per_user[Model.EASE])
    gain = (per_user[Model.EASE] - per_user[Model.ITEM_CF])[judged]
    assert gain.mean() > 0.01
    assert gain.mean() > 3 * gain.std() / np.sqrt(len(gain))
    assert trained.lists[Model.ITEM_CF].ndcg > 1.3 * trained.lists[Model.POPULARITY].ndcg
    assert trained.lists[Model.EASE].ndcg == pytest.approx(per_user[Model.EASE][judged].mean())


def check_same_scale(trained: Trained) -> None:
    """The mean paired relative delta of EASE against item CF is within the guardrail, overall and by cohort."""
    a, b = trained.lists[Model.ITEM_CF], trained.lists[Model.EASE]
    deltas = []
    for row in range(len(a.items)):
        left = dict(zip(a.items[row].tolist(), a.scores[row].tolist(), strict=True))
        right = dict(zip(b.items[row].tolist(), b.scores[row].tolist(), strict=True))
        common = [(right[item] - left[item]) / (right[item] + left[item]) for item in left if item in right]
        deltas.append(np.mean(common) if common else np.nan)
    margin = next(each for each in GUARDRAILS if each.metric == "scores.relative_delta")
    assert margin.cohort_margin is not None
    assert abs(np.nanmean(deltas)) < margin.margin / 2
    for name in {f"{key}={value}" for cohort in trained.cohorts for key, value in cohort.items()}:
        key, _, value = name.partition("=")
        own = [delta for delta, cohort in zip(deltas, trained.cohorts, strict=True) if cohort[key] == value]
        assert abs(np.nanmean(own)) < margin.cohort_margin / 2


def test_the_better_model_is_truly_better(generated: data.Dataset, trained: Trained) -> None:
    check_better(generated, trained)
    check_same_scale(trained)


def test_the_better_model_is_truly_better_on_movielens(movielens: data.Dataset) -> None:
    trained = train(movielens)
    check_better(movielens, trained)
    check_same_scale(trained)
    assert trained.lists[Model.ITEM_CF].ndcg == pytest.approx(0.169, abs=0.003)
    assert trained.lists[Model.EASE].ndcg == pytest.approx(0.186, abs=0.003)


@pytest.mark.parametrize("model", list(Model))
def test_lists_are_full_fresh_and_fall(generated: data.Dataset, trained: Trained, model: Model) -> None:
    lists = trained.lists[model]
    assert lists.items.shape == lists.scores.shape == (len(generated.users), DEPTH)
    assert all(len(set(row)) == DEPTH for row in lists.items.tolist())
    assert (np.diff(lists.scores, axis=1) <= 0).all()
    assert (lists.scores > 1).all()
    assert (lists.scores < 5).all()
    seen = generated.train.matrix(len(generated.users), len(generated.items)) > 0
    assert not np.take_along_axis(seen, lists.items, axis=1).any()


def test_scores_are_the_ratings_that_were_given(generated: data.Dataset, trained: Trained) -> None:
    """Calibration: where a listed item was rated later, the score is the rating on average, for either model."""
    rating = generated.held_out.matrix(len(generated.users), len(generated.items))
    for model in (Model.ITEM_CF, Model.EASE):
        lists = trained.lists[model]
        given = np.take_along_axis(rating, lists.items, axis=1)
        rated = given > 0
        assert rated.sum() > 1000
        assert lists.scores[rated].mean() == pytest.approx(given[rated].mean(), abs=0.15)


def test_training_is_deterministic_and_the_file_holds_all_of_it(
    generated: data.Dataset, trained: Trained, models_file: Path
) -> None:
    again = train(generated)
    assert (again.users, again.items, again.titles, again.source) == (
        trained.users,
        trained.items,
        trained.titles,
        trained.source,
    )
    assert list(map(dict, again.cohorts)) == list(map(dict, trained.cohorts))
    for model in Model:
        assert np.array_equal(again.lists[model].items, trained.lists[model].items)
        assert np.allclose(again.lists[model].scores, trained.lists[model].scores, atol=1e-9)
        assert again.lists[model].ndcg == pytest.approx(trained.lists[model].ndcg)
    assert np.array_equal(again.cold[0], trained.cold[0])


def test_trained_once_for_the_same_data(generated: data.Dataset, models_file: Path) -> None:
    before = models_file.stat().st_mtime_ns
    path, _ = train_or_load(generated, models_file.parent)
    assert path == models_file
    assert path.stat().st_mtime_ns == before
    assert [each.name for each in models_file.parent.iterdir()] == [path.name]


def test_a_broken_file_is_an_error_that_says_what_to_do(tmp_path: Path, models_file: Path) -> None:
    whole = models_file.read_bytes()
    for content in (b"", b"no models", whole[: len(whole) // 2]):
        (tmp_path / "m.npz").write_bytes(content)
        with pytest.raises(StartError, match=r"m\.npz can't be read .*delete it"):
            read(tmp_path / "m.npz")


def test_ndcg_by_hand() -> None:
    lists = np.array([[3, 1, 0], [0, 1, 2], [0, 1, 2]], np.int32)
    wanted = np.array([[0, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]], bool)
    # One true item, at rank 2: (1/log2 3) / 1. All three true, in full: 1. No truth: undefined.
    assert ndcg(lists, wanted, k=3) == pytest.approx([1 / np.log2(3), 1.0, np.nan], nan_ok=True)
