"""A run goes on where ranks, stage and precision are others; `elastic.py` tries each with each."""

from pathlib import Path

from elastic import Resume, Setting, resumes, table


def test_a_run_goes_on_in_other_settings_with_the_next_loss(corpus: Path, tmp_path: Path) -> None:
    settings = [Setting(1, "zero0_fp32"), Setting(2, "zero3_bf16")]
    found = resumes(settings, corpus=corpus, folder=tmp_path)
    pairs = {(one.before, one.after) for one in found}
    assert pairs == {(before, after) for before in settings for after in settings}
    assert all(one.is_well for one in found), found
    same = [one.difference for one in found if one.before == one.after]
    assert same == [0, 0]


def test_the_table_has_the_worst_of_each_pair_of_precisions() -> None:
    one, other = Setting(1, "zero0_fp32"), Setting(2, "zero1_bf16")
    found = [Resume(one, one, 0.0), Resume(one, other, 1e-3), Resume(one, other, 3e-2)]
    assert [resume.is_well for resume in found] == [True, True, False]
    found += [Resume(other, one, 0.0), Resume(other, other, 0.0)]
    assert table(found).splitlines()[2:] == [
        "| fp32 | 0e+00 (1) | 3e-02 (2) |",
        "| bf16 | 0e+00 (1) | 0e+00 (1) |",
    ]
