import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from shadowproxy.demo import data
from shadowproxy.errors import StartError

FILES = {
    "inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    + "".join(f"{user}\t{item}\t{1 + (user + item) % 5}\t{1000 - item}\n" for user in (1, 2) for item in range(1, 11)),
    "user": "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
    "1\t24\tM\tartist\t1\n2\t53\tF\tother\t2\n",
    "item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    + "".join(f"{item}\tFilm é {item}\t1995\tComedy\n" for item in range(1, 11)),
}


def write(folder: Path, **changed: str | bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, text in {**FILES, **changed}.items():
        (folder / f"ml-100k.{suffix}").write_bytes(text.encode() if isinstance(text, str) else text)
    return folder


def wheel(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for suffix, text in FILES.items():
            archive.writestr(f"recbole/dataset_example/ml-100k/ml-100k.{suffix}", text)
    return path


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(data.VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)


def test_the_files_are_read_and_split_by_time(tmp_path: Path) -> None:
    dataset = data.load(write(tmp_path / "ml"))
    assert dataset.source.startswith("MovieLens 100k")
    assert str(tmp_path / "ml") in dataset.source
    assert dataset.users[0] == data.User("1", 24, "M", "artist")
    assert dataset.items[9].title == "Film é 10"
    assert (len(dataset.train), len(dataset.held_out)) == (16, 4)
    # Item n was rated at 1000 − n: the two with the lowest ids are each user's latest.
    assert sorted(dataset.held_out.items.tolist()) == [0, 0, 1, 1]
    # Ratings 1 + (user + item) % 5: user 1 gave item 1 a 3 and item 2 a 4; user 2 gave item 1 a 4 and item 2 a 5.
    assert [set(items) for items in dataset.truth()] == [{"2"}, {"1", "2"}]


def test_looked_for_in_the_documented_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert data.find_data() is None
    wheel(tmp_path / ".cache/demo/recbole-1.2.1-py3-none-any.whl")
    cached = data.find_data()
    assert cached is not None
    assert cached.label == "recbole-1.2.1-py3-none-any.whl"
    monkeypatch.setenv(data.VARIABLE, str(write(tmp_path / "variable")))
    by_variable = data.find_data()
    assert by_variable is not None
    assert by_variable.label == str(tmp_path / "variable")
    explicit = data.find_data(write(tmp_path / "explicit"))
    assert explicit is not None
    assert explicit.label == str(tmp_path / "explicit")
    assert data.parse(cached).digest() == data.parse(explicit).digest()


def test_an_installed_package_is_found_by_its_metadata_and_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "site/recbole/dataset_example/ml-100k")
    (tmp_path / "site/recbole/__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "site/recbole-1.2.1.dist-info").mkdir()
    (tmp_path / "site/recbole-1.2.1.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: recbole\nVersion: 1.2.1\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "site")
    location = data.find_data()
    assert location is not None
    assert len(data.parse(location).users) == 2


def test_a_place_that_was_named_must_hold_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StartError, match=r"--data .*no ml-100k\.inter"):
        data.load(tmp_path)
    monkeypatch.setenv(data.VARIABLE, str(tmp_path / "gone"))
    with pytest.raises(StartError, match=r"\$SHADOWPROXY_DEMO_DATA .*gone"):
        data.load()


HEAD = FILES["inter"].splitlines()[0]


@pytest.mark.parametrize(
    ("suffix", "text", "message"),
    [
        ("inter", f"{HEAD}\n1\t1\tfive\t3\n", r"ml-100k\.inter, line 2: 'five' is not a number"),
        ("inter", f"{HEAD}\n1\t1\tnan\t3\n", r"line 2: 'nan' is not a number"),
        ("inter", f"{HEAD}\n1\t1\t4\t3\n1\t2\t9\t3\n", r"line 3: a rating of 9 is outside 1 to 5"),
        ("inter", f"{HEAD}\n1\t1\t4\n", r"line 2: 3 cells where the head has 4"),
        ("inter", f"{HEAD}\n7\t1\t4\t3\n", r"line 2: user '7' or item '1' is in none"),
        ("inter", f"{HEAD}\n", r"a head and no rows"),
        ("inter", "", r"line 1: there is no column user_id"),
        ("user", FILES["user"].replace("gender", "sex"), r"ml-100k\.user, line 1: there is no column gender"),
        ("user", FILES["user"].replace("24", "old"), r"line 2: 'old' is not an age"),
        ("item", b"item_id:token\tmovie_title:token_seq\n1\t\xff\n", r"ml-100k\.item is not UTF-8"),
    ],
)
def test_corrupt_files_say_which_line_and_what(tmp_path: Path, suffix: str, text: str, message: str) -> None:
    with pytest.raises(StartError, match=message):
        data.load(write(tmp_path / "ml", **{suffix: text}))


def test_a_missing_file_and_a_broken_wheel_are_errors(tmp_path: Path) -> None:
    folder = write(tmp_path / "ml")
    (folder / "ml-100k.user").unlink()
    with pytest.raises(StartError, match=r"ml-100k\.user can't be read"):
        data.load(folder)
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as archive:
        archive.writestr("other/x.py", "")
    with pytest.raises(StartError, match=r"holds no recbole/dataset_example"):
        data.load(tmp_path / "other.whl")


def test_generated_says_so_and_has_the_shape(generated: data.Dataset) -> None:
    assert "generated catalogue, seed 7" in generated.source
    counts = np.bincount(generated.train.users) + np.bincount(generated.held_out.users)
    assert counts.min() >= 20
    assert np.median(counts) < counts.mean()
    popularity = np.sort(np.bincount(generated.train.items, minlength=len(generated.items)))[::-1]
    tenth = len(generated.items) // 10
    assert popularity[:tenth].sum() > 0.25 * popularity.sum()
    assert set(np.unique(generated.train.values)) == {1, 2, 3, 4, 5}
    assert sum(map(bool, generated.truth())) > 0.9 * len(generated.users)


def test_generated_is_the_same_for_the_same_seed_only(generated: data.Dataset) -> None:
    assert data.generate(7).digest() == generated.digest()
    assert data.generate(8).digest() != generated.digest()


def test_nobody_rates_a_film_twice(generated: data.Dataset) -> None:
    seen = Counter(zip(generated.train.users.tolist(), generated.train.items.tolist(), strict=True))
    seen.update(zip(generated.held_out.users.tolist(), generated.held_out.items.tolist(), strict=True))
    assert max(seen.values()) == 1


def test_cohorts_are_few_and_none_is_tiny(generated: data.Dataset) -> None:
    counts = Counter(f"{key}={value}" for cohort in generated.cohorts() for key, value in cohort.items())
    assert {"gender=F", "gender=M", "age=25-34", "occupation=educator"} <= set(counts)
    assert min(counts.values()) > 0.04 * len(generated.users)
    assert len(counts) <= 16


def test_movielens_is_what_its_readme_says(movielens: data.Dataset) -> None:
    assert (len(movielens.users), len(movielens.items)) == (943, 1682)
    assert len(movielens.train) + len(movielens.held_out) == 100_000
    counts = Counter(user.gender for user in movielens.users)
    assert (counts["M"], counts["F"]) == (670, 273)
