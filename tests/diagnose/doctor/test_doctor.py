"""Findings on a model and on data, each with a set-up that has the fault and one that has not."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from entangle_cli.api.doctoring import examine
from entangle_cli.cli.app import run
from entangle_cli.data.checkpoint import Checkpoint, load_checkpoint
from entangle_cli.data.trainer_files import trl
from entangle_cli.data.trainer_files.reading import read_trainer_file
from entangle_cli.diagnose.doctor.model import attention_kernel, batch_findings, plain_log_probs, rounding_tolerance
from entangle_cli.diagnose.doctor.training_model import ORDINARY_STEP, changed_share, lost_steps, training_noise
from entangle_cli.records.finding import FINDINGS
from entangle_cli.records.measurement import TokenizedResponse
from entangle_cli.records.settings import LoadingSettings, LoraSettings, ScanSettings

SAMPLE = Path(__file__).resolve().parents[3] / "sample_data"
MODEL = str(SAMPLE / "model")
ROWS = [TokenizedResponse(tuple(range(5, 5 + length)), 3) for length in (8, 13, 21, 30)]


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(MODEL, "float32", torch.device("cpu"))


def codes(document: dict[str, Any]) -> set[str]:
    return {one["code"] for one in document["findings"]}


def examined(
    tmp_path: Path, text: str, rows: list[dict[str, Any]] | None = None, model: str = MODEL, **settings: Any
) -> set[str]:
    """The codes of a TRL file with some rows."""
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows or PAIRS), encoding="utf-8")
    file = tmp_path / "train.yaml"
    file.write_text(f"model_name_or_path: {model}\ndataset_name: {data}\n{text}", encoding="utf-8")
    settings = {"limit": 32, **settings}
    return codes(examine(model, [str(data)], ScanSettings(**settings), read_trainer_file(file)))


PAIRS = [
    {"prompt": f"Review {n}: a fine show.\nThe tone is", "chosen": " positive", "rejected": " negative"}
    for n in range(6)
]


WITH_REFERENCE = [{**row, "ref_chosen_logps": -1.0, "ref_rejected_logps": -1.0} for row in PAIRS]


def test_log_probs_equal_those_of_transformers_own_loss(checkpoint: Checkpoint) -> None:
    for row in ROWS:
        ids = torch.tensor([row.ids])
        labels = ids.clone()
        labels[:, : row.first_scored] = -100
        with torch.no_grad():
            loss = checkpoint.model(input_ids=ids, labels=labels).loss
        assert plain_log_probs(checkpoint.model, [row]).item() == pytest.approx(-loss.item() * row.num_scored, rel=1e-5)


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_does_not_change_the_sample_model(checkpoint: Checkpoint, side: str) -> None:
    alone = torch.cat([plain_log_probs(checkpoint.model, [row]) for row in ROWS])
    assert torch.allclose(plain_log_probs(checkpoint.model, ROWS, side), alone, atol=1e-3)


@pytest.fixture
def hooked(checkpoint: Checkpoint) -> Iterator[Callable[[Any], None]]:
    handles: list[Any] = []
    layer = checkpoint.model.get_output_embeddings()
    yield lambda hook: handles.append(layer.register_forward_hook(hook))
    for handle in handles:
        handle.remove()


def test_a_model_whose_rows_mix_in_a_batch_is_found(checkpoint: Checkpoint, hooked: Callable[[Any], None]) -> None:
    assert list(batch_findings(checkpoint, ROWS)) == []
    hooked(lambda module, inputs, output: output + 0.1 * output.roll(1, -1) * (len(output) > 1))
    assert [found.code for found in batch_findings(checkpoint, ROWS)] == ["D-BATCH"]


def test_left_padding_is_found_where_positions_count_it(checkpoint: Checkpoint) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_positions=64, n_embd=32, n_layer=2, n_head=2, initializer_range=0.5)
    learned = GPT2LMHeadModel(config).eval()
    other = Checkpoint(learned, checkpoint.tokenizer, {}, 64)
    side = checkpoint.tokenizer.padding_side
    try:
        checkpoint.tokenizer.padding_side = "left"
        assert [found.code for found in batch_findings(other, ROWS)] == ["D-PADDING-SIDE"]
        assert list(batch_findings(checkpoint, ROWS)) == []  # rotary positions: only distances count
        checkpoint.tokenizer.padding_side = "right"
        assert list(batch_findings(other, ROWS)) == []
    finally:
        checkpoint.tokenizer.padding_side = side


def test_the_attention_that_runs_is_named() -> None:
    for name, words in (("eager", "eager (matrix products"), ("sdpa", "sdpa (scaled_dot_product")):
        loaded = load_checkpoint(MODEL, "float32", torch.device("cpu"), LoadingSettings(attn_implementation=name))
        assert attention_kernel(loaded).startswith(words)


def test_a_step_below_the_spacing_of_bfloat16_is_lost(checkpoint: Checkpoint) -> None:
    assert [(found.code, found.severity) for found in lost_steps(checkpoint, 5e-7)] == [
        ("D-LEARNING-RATE-LOST", "warning")
    ]
    assert [found.severity for found in lost_steps(checkpoint, 1e-9)] == ["error"]  # nothing moves
    assert list(lost_steps(checkpoint, 1e-2)) == []


def test_a_first_step_that_survives_does_not_hide_later_ones_that_do_not(checkpoint: Checkpoint) -> None:
    parameters = list(checkpoint.model.parameters())
    rate = 2e-4
    assert changed_share(parameters, rate) > 0.5 > changed_share(parameters, ORDINARY_STEP * rate)
    assert [found.code for found in lost_steps(checkpoint, rate)] == ["D-LEARNING-RATE-LOST"]


def test_the_share_of_weights_that_a_step_changes() -> None:
    """A weight of 1 + 2^-8 lies between two numbers of bfloat16, whose spacing is 2^-8 below 1 and 2^-7 above."""
    ones = torch.ones(1000)
    assert changed_share([ones], 2**-10) == 0.0
    assert changed_share([ones], 2**-8) == 1.0
    assert changed_share([ones, torch.full((1000,), 2.0**-12)], 2**-10) == 0.5


def test_ordinary_steps_of_adamw_are_a_quarter_of_the_learning_rate() -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(20_000))
    optimizer = torch.optim.AdamW([weight], lr=1.0, weight_decay=0.0)
    for _ in range(300):
        before = weight.detach().clone()
        weight.grad = torch.randn_like(weight)
        optimizer.step()
    steps = (weight.detach() - before).square().mean().sqrt().item()
    assert steps == pytest.approx(ORDINARY_STEP, rel=0.03)


def test_dropout_that_trainers_do_not_disable(checkpoint: Checkpoint) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    size = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    noise = {}
    for share in (0.0, 0.1):
        config = LlamaConfig(**size, num_attention_heads=2, attention_dropout=share, initializer_range=0.5)
        other = Checkpoint(LlamaForCausalLM(config).eval(), checkpoint.tokenizer, {}, 64)
        noise[share] = training_noise(other, without_dropout_modules=True)
        assert not other.model.training
    assert noise[0.0] == 0.0
    assert noise[0.1] > 1e-3


def test_dropout_that_trainers_disable() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=64, n_positions=64, n_embd=32, n_layer=2, n_head=2, attn_pdrop=0.0, initializer_range=0.5
    )
    model = GPT2LMHeadModel(config).eval()
    other = Checkpoint(model, load_checkpoint(MODEL, "float32", torch.device("cpu")).tokenizer, {}, 64)
    assert training_noise(other, without_dropout_modules=True) == 0.0
    assert training_noise(other, without_dropout_modules=False) > 1e-3
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {0.0, 0.1}


def test_rounding_of_large_logits_is_no_finding() -> None:
    """Logits of 64 have a spacing of 0.5 in bfloat16."""
    loaded = load_checkpoint(MODEL, "bfloat16", torch.device("cpu"))
    short = [TokenizedResponse(tuple(range(5, 5 + length)), length - 1) for length in (8, 13, 21, 30)]
    with torch.no_grad():
        factor = 64 / loaded.model(input_ids=torch.tensor([short[-1].ids])).logits.abs().max()
    handle = loaded.model.get_output_embeddings().register_forward_hook(lambda module, inputs, output: output * factor)
    assert list(batch_findings(loaded, short)) == []
    tokens = torch.tensor([1.0, 4.0], dtype=torch.float64)
    assert rounding_tolerance(loaded.model, short[-2:], tokens).tolist() == [1.0, 0.5]
    handle.remove()


def test_a_stored_bfloat16_checkpoint_counts_without_a_dtype_in_the_file(tmp_path: Path) -> None:
    folder = copied_model(tmp_path, lambda content: None)
    config = json.loads((Path(folder) / "config.json").read_text())
    text = "dtype: auto\nlearning_rate: 5e-7\n"
    found = {}
    for dtype in ("float32", "bfloat16"):
        (Path(folder) / "config.json").write_text(json.dumps({**config, "dtype": dtype}))
        found[dtype] = examined(tmp_path, text, model=folder)
    assert "D-LEARNING-RATE-LOST" not in found["float32"]
    assert "D-LEARNING-RATE-LOST" in found["bfloat16"]


def test_adapters_that_trl_casts_to_bfloat16(tmp_path: Path) -> None:
    lora = LoraSettings(r=8, targets=("all-linear",))
    text = "use_peft: true\nlora_target_modules: all-linear\nlearning_rate: 5e-6\n"
    assert "D-LEARNING-RATE-LOST" not in examined(tmp_path, text, lora=lora)
    assert "D-LEARNING-RATE-LOST" in examined(tmp_path, text + "load_in_4bit: true\n", lora=lora)


@pytest.mark.parametrize(
    ("code", "faulty", "sound"),
    [
        ("D-LEARNING-RATE-LOST", "dtype: bfloat16\nlearning_rate: 5e-7\n", "dtype: float32\nlearning_rate: 5e-7\n"),
        (
            "D-LEARNING-RATE-LOST",
            "dtype: bfloat16\nlearning_rate: 5e-7\n",
            "dtype: bfloat16\nlearning_rate: 5e-7\nuse_peft: true\nlora_target_modules: all-linear\n",
        ),
        ("D-BEYOND-CONTEXT", "max_length: 4096\n", "max_length: 512\n"),
        ("D-REFUSED", "precompute_ref_log_probs: true\n", "precompute_ref_log_probs: false\n"),
        (
            "D-DROPOUT",
            "disable_dropout: false\nuse_peft: true\nlora_dropout: 0.1\nlora_target_modules: all-linear\n",
            "disable_dropout: true\nuse_peft: true\nlora_dropout: 0.1\nlora_target_modules: all-linear\n",
        ),
    ],
)
def test_a_file_beside_its_model_and_data(tmp_path: Path, code: str, faulty: str, sound: str) -> None:
    long_rows = [*PAIRS, {**PAIRS[0], "prompt": "Review: " + "a fine show that went on and on. " * 90}]
    rows = {"D-BEYOND-CONTEXT": long_rows, "D-REFUSED": WITH_REFERENCE}.get(code, PAIRS)
    assert code in examined(tmp_path, faulty, rows, max_length=256)
    assert {found for found in examined(tmp_path, sound, PAIRS) if found.startswith("D-")} == set()


@pytest.mark.parametrize("text", ["max_prompt_length: 4\n", "max_prompt_length: 64\nmax_length: 64\n"])
def test_prompts_that_older_versions_of_trl_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    found = examined(tmp_path, text)
    assert "D-UNKNOWN-KEY" in found
    assert "D-PROMPT-CUT" not in found
    monkeypatch.setattr(trl, "parsed_by_trl", lambda *_: None)
    assert "D-PROMPT-CUT" in examined(tmp_path, text)
    assert "D-PROMPT-CUT" not in examined(tmp_path, "max_length: 256\n")


@pytest.fixture(scope="module")
def with_reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[dict[str, Any]]]:
    """Rows with reference log-probs that `entangle scan` wrote with some options."""
    folder = tmp_path_factory.mktemp("reference")

    def write(*options: str) -> list[dict[str, Any]]:
        target = folder / f"{len(list(folder.iterdir()))}.jsonl"
        words = ["scan", MODEL, str(SAMPLE / "long_ending.jsonl"), "--limit", "8", "--write-reference", str(target)]
        assert run([*words, "-o", str(folder / target.stem), "--quiet", *options]) == 0
        return [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]

    return write


def test_reference_log_probs_of_another_model_are_found(tmp_path: Path, with_reference: Any) -> None:
    rows = with_reference()
    assert "D-OTHER-REFERENCE" not in examined(tmp_path, "", rows)
    other = [{**row, "ref_chosen_logps": 1.01 * row["ref_chosen_logps"]} for row in rows]
    other = [{**row, "ref_rejected_logps": 1.01 * row["ref_rejected_logps"]} for row in other]
    assert "D-OTHER-REFERENCE" in examined(tmp_path, "", other)
    assert "D-OTHER-REFERENCE" not in examined(tmp_path, "", rows, ref_model=MODEL)
    assert "D-OTHER-REFERENCE" in examined(tmp_path, "", other, ref_model=MODEL)
    assert "D-IGNORED" in examined(tmp_path, "", rows)
    assert "D-OTHER-REFERENCE" not in examined(tmp_path, "", with_reference("--dtype", "bfloat16"))


def test_reference_log_probs_of_shortened_rows_are_those_of_shortened_rows(tmp_path: Path, with_reference: Any) -> None:
    rows = with_reference("--max-length", "40")
    assert "D-OTHER-REFERENCE" not in examined(tmp_path, "", rows, max_length=40)
    assert "D-OTHER-REFERENCE" in examined(tmp_path, "", rows, max_length=128)


@pytest.mark.parametrize(
    ("code", "faulty"),
    [
        ("W-EMPTY-ANSWER", {**PAIRS[0], "chosen": ""}),
        ("W-TRUNCATED", {**PAIRS[0], "chosen": " positive" + " and on" * 200}),
        ("W-DUPLICATE", PAIRS[0]),
        ("W-CONTRADICTION", {**PAIRS[0], "chosen": " negative", "rejected": " positive"}),
    ],
)
def test_warnings_on_rows_are_findings(tmp_path: Path, code: str, faulty: dict[str, Any]) -> None:
    assert code in examined(tmp_path, "", [*PAIRS, faulty], max_length=128)
    assert examined(tmp_path, "", PAIRS, max_length=128) == set()


def copied_model(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> str:
    """The sample model with other settings of its tokenizer."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in Path(MODEL).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    settings = folder / "tokenizer_config.json"
    content = json.loads(settings.read_text(encoding="utf-8"))
    change(content)
    settings.write_text(json.dumps(content), encoding="utf-8")
    return str(folder)


def test_a_tokenizer_without_an_end_is_found(tmp_path: Path) -> None:
    def without_end(content: dict[str, Any]) -> None:
        content.pop("eos_token", None)

    assert "W-NO-EOS" in codes(examine(copied_model(tmp_path, without_end)))
    assert codes(examine(MODEL)) == set()


@pytest.mark.parametrize(("is_special", "severity"), [(False, "note"), (True, "error")])
def test_more_tokens_than_embeddings(tmp_path: Path, is_special: bool, severity: str) -> None:
    """Tokens that no text has do no harm, as in Gemma 3. A special token does."""
    from transformers import AutoTokenizer

    folder = copied_model(tmp_path, lambda content: None)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<extra{n}>" for n in range(2000)])
    if is_special:
        tokenizer.add_special_tokens({"pad_token": "<padding>"})
    tokenizer.save_pretrained(folder)
    found = {one["code"]: one["severity"] for one in examine(folder)["findings"]}
    assert found["D-VOCABULARY"] == severity


def test_left_padding_does_no_harm_where_the_trainer_pads_on_the_right(checkpoint: Checkpoint) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_positions=64, n_embd=32, n_layer=2, n_head=2, initializer_range=0.5)
    tokenizer = copy.copy(checkpoint.tokenizer)
    tokenizer.padding_side = "left"
    other = Checkpoint(GPT2LMHeadModel(config).eval(), tokenizer, {}, 64)
    severities = [
        [found.severity for found in batch_findings(other, ROWS, pads_right=pads_right)] for pads_right in (False, True)
    ]
    assert severities == [["warning"], ["note"]]


def test_data_are_looked_at_without_a_model(tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in [*PAIRS, PAIRS[0], {}]), encoding="utf-8")
    document = examine(None, [str(data)])
    assert codes(document) == {"W-DUPLICATE", "D-DATA"}
    assert document["data"][0]["usable"] == 7
    assert document["data"][0]["engine"]["reason"] == "no model"
    assert codes(examine(None, [str(tmp_path / "nowhere.jsonl")])) == {"D-DATA"}


def test_some_rows_that_cannot_be_used_are_a_warning_and_most_an_error(tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    for unusable, severity in ((1, "warning"), (7, "error")):
        data.write_text("".join(json.dumps(row) + "\n" for row in [*PAIRS, *[{}] * unusable]), encoding="utf-8")
        found = {one["code"]: one["severity"] for one in examine(MODEL, [str(data)])["findings"]}
        assert found["D-DATA"] == severity


CHAT = [
    {
        "prompt": [{"role": "user", "content": f"Review {n}: a fine show. The tone?"}],
        "chosen": [{"role": "assistant", "content": "positive"}],
        "rejected": [{"role": "assistant", "content": "negative"}],
    }
    for n in range(4)
]
NO_GENERATION_PROMPT = (
    "{% for message in messages %}{{ message.role + ': ' + message.content + '<|end|>' }}{% endfor %}"
)


def test_a_template_without_a_generation_prompt_is_found(tmp_path: Path) -> None:
    folder = copied_model(tmp_path, lambda content: None)
    data = tmp_path / "chat.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in CHAT), encoding="utf-8")
    assert codes(examine(folder, [str(data)])) == set()
    (Path(folder) / "chat_template.jinja").write_text(NO_GENERATION_PROMPT, encoding="utf-8")
    assert "W-GENERATION-PROMPT" in codes(examine(folder, [str(data)]))


def test_a_doubled_beginning_is_found(tmp_path: Path) -> None:
    from tokenizers import processors
    from transformers import AutoTokenizer

    folder = copied_model(tmp_path, lambda content: content.update(bos_token="<|end|>"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|end|> $A", special_tokens=[("<|end|>", end)]
    )
    tokenizer.save_pretrained(folder)
    data = tmp_path / "pairs.jsonl"
    for start, is_doubled in (("", False), ("<|end|>", True)):
        rows = [{**row, "prompt": start + row["prompt"]} for row in PAIRS]
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        assert ("W-BOS-DOUBLED" in codes(examine(folder, [str(data)]))) is is_doubled


def test_what_cannot_be_opened_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text("{}\n", encoding="utf-8")
    assert codes(examine(str(tmp_path / "nowhere"))) == {"D-MODEL"}
    assert codes(examine(MODEL, [str(tmp_path / "nowhere.jsonl")])) == {"D-DATA"}
    assert "D-DATA" in codes(examine(MODEL, [str(tmp_path / "pairs.jsonl")]))


def test_strict_ends_with_3_on_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(SAMPLE / "one_token.jsonl")
    assert run(["doctor", MODEL, data, "--strict"]) == 0
    assert "No findings." in capsys.readouterr().out
    (tmp_path / "dpo.yaml").write_text(f"model_name_or_path: {MODEL}\ndataset_name: {data}\nbeta: 0\n")
    file = tmp_path / "doctor.json"
    assert run(["doctor", "--from", str(tmp_path / "dpo.yaml")]) == 0
    assert run(["doctor", "--from", str(tmp_path / "dpo.yaml"), "--strict", "--json", str(file)]) == 3
    assert "D-BETA" in capsys.readouterr().out
    document = json.loads(file.read_text(encoding="utf-8"))
    assert document["schema"] == "entangle.doctor"
    assert document["findings"][0]["severity"] == "error"


def test_quietly_there_are_the_findings_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", MODEL, "--quiet"]) == 0
    assert capsys.readouterr().out.split() == ["No", "findings."]


def test_without_arguments_the_machine_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert f"torch {torch.__version__.partition('+')[0]}" in " ".join(shown.split())


@pytest.mark.parametrize("code", sorted(FINDINGS))
def test_every_code_is_explained(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", code]) == 0
    assert "entangle doctor" in " ".join(capsys.readouterr().out.split())


def test_every_data_set_is_looked_at(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    good.write_text("".join(json.dumps(row) + "\n" for row in PAIRS), encoding="utf-8")
    bad.write_text('{"question": "a", "good": "b", "bad": "c"}\n', encoding="utf-8")
    document = examine(MODEL, [str(good), str(bad)], ScanSettings(limit=3))
    assert [one["usable"] for one in document["data"]] == [3, 0]
    (found,) = document["findings"]
    assert (found["code"], str(bad) in found["message"]) == ("D-DATA", True)
    assert codes(examine(MODEL, [str(good), str(good)], ScanSettings(limit=3))) == set()


def test_rows_without_a_pair_are_shown_with_their_columns(tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text('{"question": "a", "good": "b", "bad": "c"}\n', encoding="utf-8")
    (found,) = examine(None, [str(data)])["findings"]
    assert "columns: question, good, bad" in found["message"]
    assert "--map" in found["remedy"]


@pytest.mark.parametrize(("extra", "severity"), [("template: llama3\n", "warning"), ("", "error")])
def test_a_template_of_the_trainers_own(tmp_path: Path, extra: str, severity: str) -> None:
    data = tmp_path / "chat.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in CHAT), encoding="utf-8")
    file = tmp_path / "train.yaml"
    file.write_text(f"model_name_or_path: {MODEL}\nstage: dpo\nfinetuning_type: full\n{extra}", encoding="utf-8")
    folder = copied_model(tmp_path, lambda content: content.pop("chat_template", None))
    (Path(folder) / "chat_template.jinja").unlink(missing_ok=True)
    document = examine(folder, [str(data)], ScanSettings(limit=4), read_trainer_file(file))
    assert [(one["code"], one["severity"]) for one in document["findings"]] == [("D-DATA", severity)]
