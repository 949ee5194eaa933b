from pathlib import Path

import pytest
from programs import missing

from shadowproxy.demo import data
from shadowproxy.demo.models import Trained, read, train_or_load

# Looked for before any test changes the environment or the working directory.
LOCATION = data.find_data()


@pytest.fixture(scope="session")
def generated() -> data.Dataset:
    return data.generate(7)


@pytest.fixture(scope="session")
def models_file(generated: data.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, _ = train_or_load(generated, tmp_path_factory.mktemp("models"))
    return path


@pytest.fixture(scope="session")
def trained(models_file: Path) -> Trained:
    return read(models_file)


@pytest.fixture(scope="session")
def movielens() -> data.Dataset:
    if LOCATION is None:
        missing(f"MovieLens 100k is not at hand; set {data.VARIABLE}")
    return data.parse(LOCATION)
