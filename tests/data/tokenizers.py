"""A small byte-level BPE tokenizer built in memory, and variants of it: no network, milliseconds to train."""

from __future__ import annotations

from functools import cache

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

PAD, BOS, START, EOS = "<pad>", "<s>", "<|im_start|>", "<|im_end|>"

SENTENCES = [
    "The sky is blue and the sea is blue too.",
    "The skyline of the city is grey in the morning.",
    "Two and two is four, not five.",
    "Hello, how can I help you today?",
    "Go away, I do not want to help you.",
    "The capital of France is Paris, and the capital of Spain is Madrid.",
    "Cats sleep all day long; dogs bark at the cats.",
    "user assistant system tool",
    "\n\nHuman: What is the time?\n\nAssistant: It is noon.",
]

CHAT_TEMPLATE = """\
{%- if tools %}{{ '<|im_start|>system\\n' }}{{ tools | tojson }}{{ '<|im_end|>\\n' }}{%- endif %}
{%- if brief is defined and brief %}{{ '<|im_start|>system\\nBe brief.<|im_end|>\\n' }}{%- endif %}
{%- for message in messages %}
{%- if message.role == 'refused' %}{{ raise_exception('no such role') }}{%- endif %}
{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') }}
{%- for call in message.tool_calls or [] %}{{ call.function | tojson }}{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}
{%- if thinking is defined and not thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""
"""ChatML: a turn ends with the EOS and a newline. `thinking=False` adds an empty thought to the generation prompt
but not to the whole conversation, as in templates of thinking models."""


@cache
def _trained() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=[PAD, BOS, START, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES * 3, trainer)
    return str(tokenizer.to_str())


def small_tokenizer(
    *, with_bos: bool = False, with_eos: bool = True, with_template: bool = True
) -> PreTrainedTokenizerFast:
    """A fresh tokenizer.

    Args:
        with_bos: begin every text with a BOS, by a post-processor as Llama's tokenizers do.
        with_eos: name the EOS and the pad token; without, it has neither.
        with_template: carry `CHAT_TEMPLATE`.
    """
    tokenizer = Tokenizer.from_str(_trained())
    named = {"eos_token": EOS, "pad_token": PAD} if with_eos else {}
    if with_bos:
        bos = (BOS, tokenizer.token_to_id(BOS))
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[bos]
        )
        named["bos_token"] = BOS
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)
    wrapped.chat_template = CHAT_TEMPLATE if with_template else None
    return wrapped
