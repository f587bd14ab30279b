"""What wandb would refuse is refused before a run starts, and its data go where they are told."""

from pathlib import Path

import pytest
import wandb
from hypothesis import given
from hypothesis import strategies as st

from trainer.config.recipe import TrackingConfig
from trainer.errors import InputError
from trainer.track.boards.wandb.settings import check_wandb, id_problem, wandb_mode
from trainer.track.opening import open_tracker

KEY = "k" * 40

#: Short texts in which the characters that matter are likely.
NAMES = st.text(st.sampled_from("ab-_. /\\#?%:;,'\u00e9"), max_size=6) | st.just("x" * 129)


def wandb_takes(**settings: object) -> bool:
    try:
        wandb.Settings(**settings)  # type: ignore[arg-type]
    except (ValueError, wandb.errors.UsageError):
        return False
    return True


@given(NAMES)
def test_names_are_refused_as_wandb_refuses_them(name: str) -> None:
    assert (id_problem(name) is None) == wandb_takes(run_id=name)
    for field, setting in (("project", "project"), ("tags", "run_tags")):
        given = (name,) if field == "tags" else name
        config = TrackingConfig(wandb="offline", **{field: given})  # type: ignore[arg-type]
        ours = True
        try:
            check_wandb(config, environ={})
        except InputError:
            ours = False
        assert ours == (wandb_takes(**{setting: given}) and name != "")


@pytest.mark.parametrize(
    ("config", "environ", "said"),
    [
        (
            {"project": "team/project"},
            {},
            r"project 'team/project' has '/' in it \(tracking.project",
        ),
        ({}, {"WANDB_PROJECT": "a:b"}, "or WANDB_PROJECT"),
        ({"entity": "my team"}, {}, "entity 'my team' has ' ' in it"),
        ({"tags": ("a", "")}, {}, "tag '' is not of 1 to 64 characters"),
        ({}, {"WANDB_TAGS": "a," + "b" * 65}, "or WANDB_TAGS"),
        ({}, {"WANDB_RUN_ID": "a/b"}, "WANDB_RUN_ID 'a/b' has '/' in it"),
    ],
)
def test_what_cannot_be_is_one_line_that_says_where_it_stands(
    config: dict[str, object], environ: dict[str, str], said: str
) -> None:
    tracking = TrackingConfig(wandb="offline", **config)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=said):
        check_wandb(tracking, environ=environ)
    off = tracking.model_copy(update={"wandb": "disabled"})
    assert check_wandb(off, environ=environ) == "disabled"


@pytest.mark.parametrize("where", ["folder", "home", "named"])
@pytest.mark.parametrize(
    ("written", "mode"), [("offline", "offline"), ("disabled", "disabled"), ("online", "online")]
)
def test_what_wandb_s_own_command_left_is_heeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, written: str, mode: str
) -> None:
    """`wandb offline` writes a settings file, in this folder or in the user's."""
    monkeypatch.chdir(tmp_path)
    environ = {"HOME": str(tmp_path / "home"), "WANDB_API_KEY": KEY}
    folder = {"folder": "wandb", "home": "home/.config/wandb", "named": "own"}[where]
    if where == "named":
        environ["WANDB_CONFIG_DIR"] = str(tmp_path / "own")
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "settings").write_text(f"[default]\nmode = {written}\n")
    assert wandb_mode(TrackingConfig(), environ) == mode
    assert wandb_mode(TrackingConfig(), environ | {"WANDB_MODE": "offline"}) == "offline"
    assert wandb_mode(TrackingConfig(wandb="offline"), environ) == "offline"
    (tmp_path / folder / "settings").write_bytes(b"\xff[[")
    assert wandb_mode(TrackingConfig(), environ) == "online"


@pytest.mark.parametrize(
    ("asked", "environ", "mode"),
    [
        ("auto", {}, "offline"),
        ("auto", {"WANDB_API_KEY": KEY}, "online"),
        ("auto", {"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, "offline"),
        ("auto", {"WANDB_API_KEY": KEY, "WANDB_MODE": "dryrun"}, "offline"),
        ("online", {"WANDB_MODE": "disabled"}, "disabled"),
        ("disabled", {"WANDB_API_KEY": KEY}, "disabled"),
        ("offline", {"WANDB_API_KEY": KEY}, "offline"),
    ],
)
def test_the_mode_is_the_environments_then_the_configurations(tmp_path, asked, environ, mode):
    assert wandb_mode(TrackingConfig(wandb=asked), environ | {"HOME": str(tmp_path)}) == mode


def test_a_key_in_netrc_counts_for_its_own_server_only(tmp_path, caplog):
    environ = {"HOME": str(tmp_path)}
    (tmp_path / ".netrc").write_text(f"machine api.wandb.ai login user password {KEY}\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert wandb_mode(TrackingConfig(), environ) == "online"
    own = environ | {"WANDB_BASE_URL": "https://wandb.example.org"}
    assert wandb_mode(TrackingConfig(), own) == "offline"
    (tmp_path / "broken").write_text("machine")
    broken = environ | {"NETRC": str(tmp_path / "broken")}
    assert wandb_mode(TrackingConfig(), broken) == "offline"
    assert "broken is unreadable" in caplog.text


@pytest.mark.parametrize(
    ("environ", "problem"),
    [({"WANDB_MODE": "ofline"}, "did you mean 'offline'"), ({"WANDB_MODE": "online"}, "no key")],
)
def test_a_mode_that_cannot_be_is_refused_before_anything_is_written(tmp_path, environ, problem):
    with pytest.raises(InputError, match=problem):
        open_tracker(
            TrackingConfig(),
            run_dir=tmp_path,
            rank=0,
            attempt=1,
            max_steps=1,
            wandb_id=None,
            run_config={},
            pauses={},
            environ=environ | {"HOME": str(tmp_path)},
        )
    assert list(tmp_path.iterdir()) == []
