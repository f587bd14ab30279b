"""Of two starts in one directory one trains; if it is killed, the next ends as if it had not been.

`python tests/soak/claims.py` is the same for more of them, and for every launcher.
"""

from pathlib import Path

from claims import differences, flags, throw
from training import Case


def test_starts_in_one_directory_train_one_after_the_other(corpus: Path, tmp_path: Path) -> None:
    alone, thrown = (Case(tmp_path / name, flags=flags(90)) for name in ("alone", "thrown"))
    how = {"launcher": "python", "n_ranks": 1, "seed": 3, "max_steps": 90}
    throw(alone, corpus, n_starts=1, n_kills=0, **how)
    outcome = throw(thrown, corpus, n_starts=2, n_kills=1, **how)
    assert (len(outcome.killed), outcome.n_attempts) == (1, 2)
    assert outcome.n_refused + outcome.n_attempts <= outcome.n_started
    assert (outcome.strange, outcome.n_unsaved) == ([], 0)
    assert differences(thrown.run_dir, alone.run_dir) == []
