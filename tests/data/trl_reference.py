"""What TRL's own DPOTrainer makes of rows: the reference for tokens and log-probs.

Imports nothing of the project, so that nothing of the project can be wrong in both.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from trl import DPOConfig, DPOTrainer


class Side(NamedTuple):
    """A response after TRL's collator."""

    ids: list[int]
    num_scored: int
    """Tokens whose log-probs TRL sums."""
    log_prob: float


class TrlPair(NamedTuple):
    """A row that TRL kept: its ids before the collator cuts them, and both responses after that."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    chosen: Side
    rejected: Side


class Trl:
    """A DPOTrainer on those rows.

    Attributes:
        pairs: the rows that TRL keeps, by row number.
    """

    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]],
        tokenizer: PreTrainedTokenizerBase,
        model: PreTrainedModel,
        max_length: int | None,
        truncation: str,
        folder: Path,
    ) -> None:
        numbered = [{**row, "row": number} for number, row in enumerate(rows)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            config = DPOConfig(
                output_dir=str(folder),
                report_to=[],
                bf16=False,
                use_cpu=True,
                max_length=max_length,
                truncation_mode=truncation,
                precompute_ref_log_probs=True,
                per_device_train_batch_size=4,
                remove_unused_columns=False,
            )
            self._trainer = DPOTrainer(
                model=model, args=config, train_dataset=Dataset.from_list(numbered), processing_class=tokenizer
            )
        self.pairs = {row["row"]: self._pair(row) for row in self._trainer.train_dataset}

    def log_prob(self, prompt_ids: Sequence[int], response_ids: Sequence[int]) -> float:
        """The log-prob that TRL computes for a response that starts there."""
        ids = {"prompt_ids": list(prompt_ids), "chosen_ids": list(response_ids), "rejected_ids": list(response_ids)}
        batch = self._trainer.data_collator([ids])
        return float(self._trainer.compute_ref_log_probs(self._trainer.model, batch)[0])

    def _pair(self, row: Mapping[str, Any]) -> TrlPair:
        batch = self._trainer.data_collator([row])
        lengths = batch["attention_mask"].sum(1).tolist()
        sides = [
            Side(ids[:length], int(mask[1:].sum()), row[f"ref_{name}_logps"])
            for name, ids, mask, length in zip(
                ("chosen", "rejected"), batch["input_ids"].tolist(), batch["completion_mask"], lengths, strict=True
            )
        ]
        return TrlPair(row["prompt_ids"], row["chosen_ids"], row["rejected_ids"], *sides)


def tiny_llama(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A Llama in float32 with that vocabulary, its weights large enough for every token to matter."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    return model.eval()
