"""Overrides, as they are written and read."""

from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st

from rlhf_hydra.config.overrides import parse, quoted


@given(st.text("ab\\'\" \n,[]=#ü"))
@example("\\d\\\n")
@example("it's C:\\'")
def test_a_quoted_text_is_read_as_it_was(text):
    assert parse(OverridesParser.create(), f"key={quoted(text)}").value() == text
