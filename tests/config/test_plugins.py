"""What installed packages of teams bring, and what is said where it cannot be used."""

import sys

import pytest

from rlhf_hydra.config import keys, plugins
from rlhf_hydra.config.check import checked_run
from rlhf_hydra.config.compose import Composer
from rlhf_hydra.config.docs import page
from rlhf_hydra.config.errors import ConfigError
from rlhf_hydra.config.saved import load_run_yaml, save_run_yaml

MODULE = '''
from dataclasses import dataclass
from rlhf_hydra.config.plugins import Plugin
from rlhf_hydra.config.schema import PPO, Section, number

@dataclass
class Careful(PPO):
    caution: float = number(0.2, gt=0, le=1)
    """How far one update may move the policy."""

plugin = Plugin({arguments})
'''
CAREFUL = """\
defaults: [/schema/algo@_here_: careful, _self_]
name: careful
loss:
  clip_high: ${algo.caution}
"""
BRINGS = "conf='{name}.conf', schemas={{'algo/careful': Careful}}"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package `name` with an entry point, its files and its module, as pip does, for one test."""

    def put(name: str, arguments: str = BRINGS, source: str = MODULE, files: dict[str, str] | None = None) -> None:
        package, info = tmp_path / name, tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[rlhf_hydra.plugins]\nteam = {name}:plugin\n")
        for path, text in {"__init__.py": "", "algo/careful.yaml": CAREFUL, **(files or {})}.items():
            file = package / "conf" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        (package / "__init__.py").write_text(source.replace("{arguments}", arguments.format(name=name)))
        forget()

    def forget() -> None:
        for cached in (plugins.installed, plugins.schemas, keys.all_keys):
            cached.cache_clear()

    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    yield put
    monkeypatch.undo()
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
    forget()


def refused() -> str:
    with pytest.raises(ConfigError) as error:
        Composer()
    return str(error.value)


def test_a_schema_with_a_key_of_its_own_goes_everywhere(install, tmp_path):
    install("acme")
    composer = Composer()
    run = checked_run(["algo=careful", "algo.caution=0.05"], composer)
    assert run.algo.caution == run.algo.loss.clip_high == 0.05
    save_run_yaml(run, tmp_path / "run.yaml", "python -m rlhf_hydra algo=careful")
    again = load_run_yaml(tmp_path / "run.yaml", ["algo.caution=0.1"])
    assert type(again.algo) is type(run.algo) and again.algo.caution == 0.1
    assert "| `algo.caution` | `0.2` | a number, more than 0 and at most 1 | *`careful`.* How far one update" in page()
    with pytest.raises(ConfigError, match="algo.caution=2.0 .*must be more than 0 and at most 1"):
        checked_run(["algo=careful", "algo.caution=2"], composer)
    with pytest.raises(ConfigError, match=r"is a key of algo=careful; this run has algo=ppo"):
        checked_run(["algo.caution=0.1"], composer)
    with pytest.raises(ConfigError, match=r"Did you mean algo.caution\?"):
        checked_run(["algo=careful", "algo.cuation=0.1"], composer)


def test_files_of_a_plugin_pass_the_same_checks(install, tmp_path):
    install("acme", files={"algo/careful.yaml": CAREFUL.replace("clip_high", "clip_hihg")})
    with pytest.raises(ConfigError) as error:
        checked_run(["algo=careful"], Composer())
    assert f"({tmp_path}/acme/conf/algo/careful.yaml): there is no such key" in str(error.value)
    assert "Did you mean algo.loss.clip_high?" in str(error.value)


def test_a_run_of_a_plugin_that_is_gone(install, composer, tmp_path):
    run = checked_run([], composer)
    save_run_yaml(run, tmp_path / "run.yaml", "python -m rlhf_hydra")
    text = (tmp_path / "run.yaml").read_text().replace("algo/ppo", "algo/careful")
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ConfigError, match="needs the schema 'algo/careful', which nothing here brings"):
        load_run_yaml(tmp_path / "run.yaml")


def test_two_plugins_with_the_same_schema(install):
    install("acme")
    install("apex")
    text = refused()
    assert "team = apex:plugin of apex 1.0: brings the schema algo/careful" in text
    assert "which team = acme:plugin of acme 1.0 brings too" in text


def test_a_plugin_that_takes_a_schema_of_the_project(install):
    install("acme", "schemas={{'algo/ppo': Careful}}")
    assert "brings the schema algo/ppo, which rlhf_hydra itself brings too" in refused()


def test_two_plugins_with_the_same_choice(install, tmp_path):
    plain = "defaults:\n  - ppo\n  - _self_\n\nname: careful\n"
    for name in ("acme", "apex"):
        install(name, "conf='{name}.conf'", files={"algo/careful.yaml": plain})
    composer = Composer()
    with pytest.raises(ConfigError) as error:
        checked_run(["algo=careful"], composer)
    files = [f"{tmp_path}/{name}/conf/algo/careful.yaml" for name in ("acme", "apex")]
    assert f"algo=careful: has several files: {', '.join(files)}\n    Rename all but one." in str(error.value)
    assert checked_run(["algo=ppo"], composer).algo.name == "ppo"  # who does not choose it is not disturbed


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import no_such_library\n", "cannot be imported: ModuleNotFoundError: No module named 'no_such_library'"),
        ("raise RuntimeError('no licence')\n", "cannot be imported: RuntimeError: no licence"),
        ("", "cannot be imported: AttributeError: module 'acme' has no attribute 'plugin'"),
        ("plugin = 'acme.conf'\n", "names a str, not a rlhf_hydra.config.plugins.Plugin"),
    ],
)
def test_a_plugin_that_cannot_be_loaded(install, source, says):
    install("acme", source=source)
    assert refused() == f"error: team = acme:plugin of acme 1.0: {says}\n    Correct it, or pip uninstall acme."


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("conf='acme.config'", "there is no package acme.config"),
        ("schemas={{'algos/careful': Careful}}", "has a schema for `algos/careful`"),
        ("schemas={{'careful': Careful}}", "has a schema for `careful`"),
        ("schemas={{'model/careful': Careful}}", "its schema model/careful does not fit Model"),
        ("schemas={{'algo/careful': 3}}", "its schema algo/careful does not fit Algo"),
    ],
)
def test_a_plugin_that_brings_what_does_not_fit(install, arguments, says):
    install("acme", arguments)
    assert says in refused()


def test_a_file_of_a_folder_does_not_hide_one_of_the_project(problems, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/tiny.yaml").write_text("defaults:\n  - llama3-8b\n  - _self_\n\nname: tiny\n")
    (problem,) = problems("model=tiny", config_dir=tmp_path)
    assert problem.rule == "contested" and str(tmp_path / "model/tiny.yaml") in problem.says
