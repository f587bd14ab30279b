"""Fixtures of many tests."""

import pytest
import training


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A small corpus of real text with several documents."""
    return training.make_corpus(tmp_path_factory.mktemp("corpora") / "stdlib")
