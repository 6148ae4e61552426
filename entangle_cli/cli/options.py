"""Single options that several commands share; `option_groups` joins them."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from entangle_cli.errors import UsageError
from entangle_cli.records.settings import Schedule, Truncation

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Checkpoint folder or hub name of a causal LM.")]
Data = Annotated[
    list[str],
    typer.Argument(
        metavar="DATA...",
        help="Preference pairs: .jsonl, .json, .csv, .tsv, .parquet, .arrow, compressed or not; a folder; a quoted "
        "pattern such as 'data/*.jsonl'; a hub name; or - for standard input. Several are read one after the other.",
    ),
]
Device = Annotated[str, typer.Option(help="auto (CUDA if available), cpu, cuda or cuda:N.")]
MaxLength = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Tokens of prompt and response together; 0 for no limit. Default: 1024 as in TRL, or the model's context "
        "if that is shorter.",
    ),
]


TruncationMode = Annotated[
    Truncation, typer.Option("--truncation", help="Which end of a sequence to keep if it is longer.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Read only this many rows from the start.")]
Seed = Annotated[int, typer.Option(help="Seed of everything drawn at random, such as --sample.")]
Sample = Annotated[int | None, typer.Option(min=1, help="Read only this many rows, drawn at random.")]
Split = Annotated[
    str | None, typer.Option(help="Split of a data set that has several, also a part such as 'train[:500]'.")
]
ConfigName = Annotated[str | None, typer.Option(help="Configuration of a data set on the hub, or of a folder.")]
DataRevision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a data set on the hub.")]
ColumnMap = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="ROLE=COLUMN",
        help="Read rows by their columns: prompt, chosen, rejected, system, tools, chosen_score, ...; a path such as "
        "meta.answer or output.0 works too. Repeatable.",
    ),
]
MaxRowBytes = Annotated[
    int,
    typer.Option(min=1, help="Longest row in bytes, before and after the chat template. Longer rows are skipped."),
]
Ranked = Annotated[str, typer.Option(help="Pairs of a row with more than two answers: best-worst, adjacent or all.")]
DataFormat = Annotated[
    str | None,
    typer.Option(
        help="Treat every row as trl, hh (transcripts split at their turns), orca, alpaca, turns, step-dpo, ...; "
        "default: each row is recognised by its columns."
    ),
]
Parameters = Annotated[
    str | None,
    typer.Option(
        help="Parameters that count: all, adapter, or a regular expression on their names; "
        "default: the adapter's if MODEL is one, else all."
    ),
]
ModelRevision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a checkpoint on the hub.")]
ChatTemplate = Annotated[
    Path | None, typer.Option(help="File with the chat template to use instead of the tokenizer's.")
]
Tokenizer = Annotated[
    str | None, typer.Option(help="Folder or hub name of the tokenizer; default: the checkpoint's own.")
]
TemplateDate = Annotated[
    str | None,
    typer.Option(metavar="YYYY-MM-DD", help="Day that the chat template uses as today; default: today."),
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run the code that comes with a checkpoint. Read it first.")
]
PickledWeights = Annotated[
    bool,
    typer.Option(
        "--pickled-weights", help="Read pickled weights if there are no others, by torch's weights-only loading."
    ),
]


class Attention(StrEnum):
    """As transformers' `attn_implementation`; kernels from the hub are code, and are not among them."""

    EAGER = "eager"
    SDPA = "sdpa"
    FLASH_ATTENTION_2 = "flash_attention_2"
    FLASH_ATTENTION_3 = "flash_attention_3"


AttnImplementation = Annotated[
    Attention | None,
    typer.Option("--attn-implementation", help="How attention is computed, as in TRL; default: transformers' choice."),
]
BaseModel = Annotated[
    str | None, typer.Option(help="Base checkpoint of a PEFT adapter; default: the one its config names.")
]
Workers = Annotated[
    str | None,
    typer.Option(
        metavar="N|auto",
        help="Measure with N processes, run by Ray on this machine or a cluster. auto: one per GPU, or per four cores "
        "without a GPU.",
    ),
]
GpusPerWorker = Annotated[
    int, typer.Option(min=1, help="GPUs of a worker. More than one holds a model that is larger than a GPU.")
]
ThreadsPerWorker = Annotated[
    int | None,
    typer.Option(min=1, help="CPU cores of a worker; default: an equal share of the cores, or one beside a GPU."),
]
RayAddress = Annotated[
    str | None,
    typer.Option(help="Address of a Ray cluster to join; default: RAY_ADDRESS, or a cluster of its own."),
]
RefModel = Annotated[
    str | None, typer.Option(help="Checkpoint of the reference log-probs; default: the data's columns, or MODEL.")
]
LossName = Annotated[
    str | None,
    typer.Option("--loss", help="Preference loss whose coefficients weigh the two gradients; default: sigmoid, DPO's."),
]
OtherLoss = Annotated[
    str | None, typer.Option("--loss", help="See the run under this loss; default: the one it was scanned with.")
]
Beta = Annotated[float | None, typer.Option("--beta", help="Inverse temperature of the loss, as in TRL; default: 0.1.")]
Gamma = Annotated[float | None, typer.Option("--gamma", help="Target margin of simpo and alphapo.")]
LossOptions = Annotated[
    list[str] | None,
    typer.Option("--loss-option", metavar="NAME=VALUE", help="Another number of the loss. Repeatable."),
]
EvalSplit = Annotated[str | None, typer.Option(help="Split of the held-out data set.")]
Accumulate = Annotated[int, typer.Option("--gradient-accumulation-steps", min=1, help="Batches per step.")]
LrSchedulerType = Annotated[Schedule, typer.Option(help="Schedule of the learning rate over the run.")]
WarmupSteps = Annotated[
    float, typer.Option(min=0.0, help="Steps with a rising learning rate, or their share of the run if below 1.")
]
MaxGradNorm = Annotated[float, typer.Option(min=0.0, help="Largest gradient norm, as in training; 0 for no clipping.")]
Epochs = Annotated[float, typer.Option(help="Epochs of the whole run, if --horizon is not given.")]
FailIf = Annotated[
    list[str] | None,
    typer.Option("--fail-if", metavar="'METRIC OP VALUE'", help="Fail the gate (exit 1) if this is true. Repeatable."),
]
Probe = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Also follow the log-probs of these answers, which take no part: rows with prompt, completion and "
        "perhaps group.",
    ),
]
ProbeGenerate = Annotated[
    int | None,
    typer.Option(
        metavar="TOKENS",
        min=1,
        help="Let the model answer the rows of --probe without a completion, greedily, in at most this many tokens.",
    ),
]
RunFolder = Annotated[Path | None, typer.Argument(metavar="[RUN]", help="A run's folder; default: the newest.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")]


class DocumentFormat(StrEnum):
    """Outputs of a document that is not a run."""

    TERMINAL = "terminal"
    MARKDOWN = "markdown"
    HTML = "html"
    JSON = "json"


def refuse_split_alone(eval_split: str | None, eval_data: str | None) -> None:
    """Refuse a split of held-out data that are not given.

    Raises:
        UsageError: --eval-split without --eval-data.
    """
    if eval_split is not None and eval_data is None:
        raise UsageError("--eval-split without --eval-data", "the held-out pairs", "give --eval-data, or leave it out")


def checked_epochs(epochs: float) -> float:
    """Refuse a number of epochs that no run has.

    Raises:
        UsageError: not a finite number above 0.
    """
    if not 0 < epochs < math.inf:
        raise UsageError(f"--epochs {epochs:g}", "a number above 0", "set it as in your training, such as 3")
    return epochs
