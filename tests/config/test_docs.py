"""docs/config.md is what the schemas say."""

from rlhf_hydra.config.docs import page
from rlhf_hydra.config.keys import all_keys
from rlhf_hydra.config.store import find_conf_dir


def test_the_page_is_up_to_date():
    written = (find_conf_dir().parent / "docs/config.md").read_text()
    assert written == page(), "run: python -m rlhf_hydra.config.docs > docs/config.md"


def test_the_page_has_every_key_that_a_choice_brings():
    rows = page().splitlines()
    assert "| `algo.advantage.lam` | `0.95` | a number, at least 0 and at most 1 | *`ppo`.* " in "\n".join(rows)
    assert (
        "| `checkpoint.every` | `0` | a whole number, at least 0 | Steps between saves. 0: only at the end. |" in rows
    )
    assert all(any(row.startswith(f"| `{name}") for row in rows) for name in all_keys())
