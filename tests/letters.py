"""A tokenizer that can be read by eye."""

from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

CHAT = (
    "{{ '<s>' }}{% for m in messages %}{{ m['role'][0] + ':' + m['content'] + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'a:' }}{% endif %}"
)
"""`<s>u:hi</s>a:ho</s>`; the prompt of the assistant is `a:`."""


def letters(template: str | None = None, *more: str, bos: bool = True) -> Any:
    """One token per character; `yz` is one token. Adds BOS in front and EOS behind.

    <s> 0, </s> 1, <end> 2, <unk> 3, then a 4, b 5, c 6 ...; `more` are further tokens.
    """
    names = [
        "<s>",
        "</s>",
        "<end>",
        "<unk>",
        *map(chr, range(ord("a"), ord("z") + 1)),
        *" :{}?+-\n0123456789",
        "yz",
        *more,
    ]
    inner = Tokenizer(WordLevel({name: i for i, name in enumerate([*names, *more])}, unk_token="<unk>"))
    inner.pre_tokenizer = Split(Regex("|".join(["yz", *more, r"[\s\S]"])), "isolated")
    if bos:
        inner.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    made = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    made.add_special_tokens({"additional_special_tokens": [AddedToken("<end>", special=True)]})
    made.chat_template = template
    return made
