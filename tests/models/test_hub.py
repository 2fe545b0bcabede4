import pytest

from rlhf_hydra.models.hub import ModelNotFound, resolve


def test_a_folder_is_itself(tiny, tmp_path):
    assert resolve(tiny) == tiny


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/at/all", "~/nowhere-at-all"])
def test_a_missing_folder_is_no_hub_id(path):
    with pytest.raises(ModelNotFound, match=f"model.path: there is no folder {path}"):
        resolve(path)


def test_tiny_is_built_once_into_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = resolve("builtin:tiny")
    built = sorted((tmp_path / "rlhf_hydra").iterdir())
    assert [str(path) for path in built] == [folder]
    assert resolve("builtin:tiny") == folder
    assert sorted((tmp_path / "rlhf_hydra").iterdir()) == built
