"""Problems that users met with real files. Every case stands for a class of problems."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

import entangle_cli
from entangle_cli import LossSettings, ScanSettings, UntilDecided
from entangle_cli.data.checkpoint import quiet_libraries
from entangle_cli.errors import UsageError
from tests.cli.conftest import LONG, MODEL, Entangle
from tests.data.tokenizers import small_tokenizer

ROWS = [json.loads(line) for line in LONG.read_text().splitlines()[:6]]
SIZES: dict[str, Any] = {
    "vocab_size": len(AutoTokenizer.from_pretrained(MODEL)),
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def write(path: str, rows: list[dict[str, Any]]) -> str:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def document(path: str = "run.json") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(path).read_text())
    return found


def copied(name: str = "model") -> Path:
    return Path(shutil.copytree(MODEL, name))


def codes(found: dict[str, Any]) -> dict[str, str]:
    return {notice["code"]: notice["message"] for notice in found["summary"]["notices"]}


def scanned(entangle: Entangle, *words: str | Path) -> dict[str, Any]:
    outcome = entangle("scan", *words, "-q", "--json", "run.json")
    assert outcome.code == 0, outcome.err
    return document()


def test_ignored_weights_are_reported_in_every_output(entangle: Entangle) -> None:
    folder = copied()
    weights = load_file(folder / "model.safetensors")
    extra = {"v_head.summary.weight": torch.zeros(1, 4), "model.layers.9.mlp.up_proj.weight": torch.zeros(2, 2)}
    save_file({**weights, **extra}, folder / "model.safetensors", metadata={"format": "pt"})
    found = scanned(entangle, folder, LONG, "--limit", "2", "-o", "run")
    words = "2 weights in the files are not used by the model"
    assert codes(found)["W-IGNORED-WEIGHTS"].startswith(words)
    assert "v_head.summary" in codes(found)["W-IGNORED-WEIGHTS"]
    assert words in json.dumps(json.loads(Path("run/manifest.json").read_text()))
    for output in ("terminal", "markdown", "html"):
        assert "W-IGNORED-WEIGHTS" in entangle("report", "run", "--format", output).out
    # A scan of the plain model gives no such warning.
    assert "W-IGNORED-WEIGHTS" not in codes(scanned(entangle, MODEL, LONG, "--limit", "2", "-o", "plain"))


def test_a_missing_weight_is_refused(entangle: Entangle) -> None:
    folder = copied()
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "down_proj" in name or "c_proj.weight" in name)
    save_file(
        {f"renamed.{key}" if key == name else key: value for key, value in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    outcome = entangle("scan", folder, LONG, "-o", "run")
    assert outcome.code == 3
    assert "1 weight missing or with a wrong shape, the first" in outcome.err


def test_null_references_are_this_checkpoints_own_and_shares_add_up(entangle: Entangle) -> None:
    known = {"ref_chosen_logps": -80.0, "ref_rejected_logps": -90.5}
    null = {"ref_chosen_logps": None, "ref_rejected_logps": None}
    nan = {"ref_chosen_logps": float("nan"), "ref_rejected_logps": float("nan")}
    data = write("a.jsonl", [{**ROWS[0], **known}, {**ROWS[1], **null}, {**ROWS[2], **nan}, ROWS[3]])
    found = scanned(entangle, MODEL, data, "-o", "run")
    assert all(pair["movement"] is not None for pair in found["pairs"])
    assert sum(share["count"] for share in found["summary"]["movements"].values()) == found["summary"]["pairs"] == 4
    (notice,) = [notice for notice in found["summary"]["notices"] if notice["code"] == "W-REF-MISSING"]
    assert notice["count"] == 3
    # Null means that the checkpoint is the reference. The row moves as without the columns.
    plain = scanned(entangle, MODEL, write("b.jsonl", ROWS[:4]), "-o", "plain")
    assert found["pairs"][1]["chosen_delta"] == plain["pairs"][1]["chosen_delta"]


def test_a_pair_without_a_movement_has_a_reason_and_a_share(entangle: Entangle) -> None:
    far = {"ref_chosen_logps": 1e5, "ref_rejected_logps": -21.0}
    data = write("a.jsonl", [{**ROWS[0], **far}, ROWS[1]])
    assert entangle("scan", MODEL, data, "-o", "run", "-q", "--json", "run.json", "--loss", "forward_kl").code == 0
    found = document()
    assert [pair["reason"] for pair in found["pairs"]] == ["loss_undefined", None]
    movements = sum(share["count"] for share in found["summary"]["movements"].values())
    assert movements + found["summary"]["without_movement"] == 2
    assert "1 pair without a movement: the loss is not finite there" in entangle("report", "run").out


def test_the_default_length_is_the_models_context(entangle: Entangle) -> None:
    folder = copied()
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = 24
    (folder / "config.json").write_text(json.dumps(config))
    outcome = entangle("scan", folder, LONG, "--limit", "3", "-o", "run", "--json", "run.json")
    assert "up to 24 tokens of prompt and answer (--max-length), the model's context" in " ".join(outcome.err.split())
    assert document()["manifest"]["identity"]["settings"]["max_length"] == 24
    longer = scanned(entangle, folder, LONG, "--limit", "3", "-o", "longer", "--max-length", "0")
    beyond = [pair for pair in longer["pairs"] if "W-CONTEXT" in (pair["warnings"] or "")]
    assert len(beyond) == 3
    assert "W-CONTEXT" in entangle("report", "longer").out
    shown = entangle("inspect", LONG, "--model", folder, "--limit", "3", "--max-length", "0").out
    assert "W-CONTEXT (3)" in shown


def test_a_missing_column_is_reported_before_anything_is_written(entangle: Entangle) -> None:
    rows = [{"question": "q", "good_answer": " a", "bad_answer": " b"}]
    data = write("a.jsonl", rows)
    outcome = entangle("scan", MODEL, data, "--map", "chosen=good", "--map", "rejected=bad_answer")
    assert outcome.code == 2
    assert "no column 'good'; columns: question, good_answer, bad_answer" in outcome.err
    assert not Path("entangle-runs").exists()
    outcome = entangle("scan", MODEL, data)
    assert outcome.code == 3
    assert "--map prompt=question --map chosen=good_answer --map rejected=bad_answer" in outcome.err


def test_a_run_without_pairs_is_never_the_newest(entangle: Entangle) -> None:
    assert entangle("scan", MODEL, LONG, "--limit", "2", "-q").code == 0
    same = write("same.jsonl", [{"prompt": "One", "chosen": " two", "rejected": " two"}])
    assert entangle("scan", MODEL, same, "-q").code == 5
    assert "2 of 100 rows" in entangle("report").out
    outcome = entangle("gate", "--fail-if", "pairs < 1")
    assert outcome.code == 0
    # The output names the judged run and mentions the newer one.
    assert "run entangle-runs/model-long_ending" in outcome.err
    assert "newer, but without a measured pair: entangle-runs/model-same" in outcome.err


def test_a_template_that_takes_the_date(entangle: Entangle) -> None:
    Path("dated.jinja").write_text("{{ strftime_now('%d %b %Y') }}{% for m in messages %}{{ m.content }}{% endfor %}")
    talk = [{"role": "user", "content": ROWS[0]["prompt"]}]
    answers = {side: [{"role": "assistant", "content": ROWS[0][side]}] for side in ("chosen", "rejected")}
    data = write("a.jsonl", [{"prompt": talk, **answers}])
    words = (MODEL, data, "--chat-template", "dated.jinja")
    first = scanned(entangle, *words, "--template-date", "2024-01-02", "-o", "a")
    assert first["manifest"]["identity"]["settings"]["template_date"] == "2024-01-02"
    assert "2024-01-02 was used" in codes(first)["W-TEMPLATE-DATE"]
    again = scanned(entangle, *words, "--template-date", "2024-01-02", "-o", "b")
    other = scanned(entangle, *words, "--template-date", "2024-11-22", "-o", "c")
    assert first["pairs"] == again["pairs"] != other["pairs"]
    outcome = entangle("scan", *words, "--template-date", "2024-11-22", "-o", "d", "--known", "a")
    assert (outcome.code, "template_date" in outcome.err) == (2, True)


def test_commands_cut_a_pair_alike(entangle: Entangle) -> None:
    whole = scanned(entangle, MODEL, LONG, "--limit", "1", "-o", "whole")["pairs"][0]
    limit = whole["prompt_tokens"] + min(whole["chosen_tokens"], whole["rejected_tokens"]) - 2
    words = ("--max-length", str(limit), "--truncation", "keep_end")
    pair = scanned(entangle, MODEL, LONG, "--limit", "1", *words, "-o", "run")["pairs"][0]
    assert entangle("tokens", MODEL, LONG, "--row", "0", *words, "--json", "tokens.json").code == 0
    tokens = document("tokens.json")["tokens"]
    for side in ("chosen", "rejected"):
        of_side = [token for token in tokens if token["answer"] == side]
        assert len(of_side) == pair[f"{side}_tokens"]
        assert sum(token["log_prob"] for token in of_side) == pytest.approx(pair[f"{side}_log_prob"], rel=1e-4)
    assert entangle("inspect", LONG, "--model", MODEL, "--limit", "1", *words, "--json", "shown.json").code == 0
    (shown,) = document("shown.json")["pairs"]
    assert len(shown["chosen_tokens"]["scored"]) == pair["chosen_tokens"]
    assert len(shown["chosen_tokens"]["not_scored"]) + pair["chosen_tokens"] == limit
    assert pair["prompt_tokens"] < whole["prompt_tokens"]
    assert not pair["chosen_truncated"]
    forecast = ("forecast", MODEL, LONG, "--limit", "1", *words, "--json", "step.json", "-q", "--optimizer", "sgd")
    assert entangle(*forecast).code == 0
    assert document("step.json")["pairs"][0]["chosen_log_prob"] == pytest.approx(pair["chosen_log_prob"], rel=1e-4)


def test_rules_end_a_scan_from_python_too(tmp_path: Path) -> None:
    stop = UntilDecided(("both_fall_rate > 0.9",), 0.95)
    settings = ScanSettings(until_decided=stop, loss=LossSettings("sigmoid"))
    records = entangle_cli.scan(str(MODEL), LONG, settings)
    assert 0 < len(records) < 100
    assert len(entangle_cli.scan(str(MODEL), LONG, settings, output=tmp_path / "run")) == len(records)
    identity = json.loads((tmp_path / "run/manifest.json").read_text())["identity"]["settings"]["until_decided"]
    loss = {"name": "sigmoid", "beta": 0.1, "options": {}}
    assert identity == {"rules": ["both_fall_rate > 0.9"], "confidence": 0.95, "loss": loss}
    with pytest.raises(UsageError, match="--confidence 2"):
        entangle_cli.scan(str(MODEL), LONG, ScanSettings(until_decided=UntilDecided(stop.rules, 2.0)))


def test_a_mixture_of_experts_mentions_trls_router_loss(entangle: Entangle) -> None:
    experts = MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=2, num_key_value_heads=2))
    with quiet_libraries():
        experts.save_pretrained("experts")
        AutoTokenizer.from_pretrained(MODEL).save_pretrained("experts")
    found = scanned(entangle, "experts", LONG, "--limit", "1", "-o", "run")
    assert "auxiliary loss times 0.001" in codes(found)["W-ROUTER-LOSS"]


def test_block_fp8_is_dequantised_to_one_dtype(entangle: Entangle) -> None:
    sizes = {**SIZES, "hidden_size": 128, "intermediate_size": 128}
    torch.manual_seed(0)
    with quiet_libraries():
        LlamaForCausalLM(LlamaConfig(**sizes)).to(torch.bfloat16).save_pretrained("fp8")
        AutoTokenizer.from_pretrained(MODEL).save_pretrained("fp8")
    stored = {}
    for name, weight in load_file("fp8/model.safetensors").items():
        if "proj.weight" in name:
            scale = weight.float().abs().max() / 448
            stored[name] = (weight.float() / scale).to(torch.float8_e4m3fn)
            stored[f"{name}_scale_inv"] = scale.reshape(1, 1)
        else:
            stored[name] = weight
    save_file(stored, "fp8/model.safetensors", metadata={"format": "pt"})
    config = json.loads(Path("fp8/config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
    }
    Path("fp8/config.json").write_text(json.dumps(config))
    found = scanned(entangle, "fp8", LONG, "--limit", "2", "-o", "run")
    assert [pair["status"] for pair in found["pairs"]] == ["ok", "ok"]
    assert codes(found)["W-DEQUANTISED"] == "weights quantised by fp8 were dequantised to float32"
    for method in ("gptq", "compressed-tensors"):
        Path("fp8/config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": method}}))
        outcome = entangle("scan", "fp8", LONG, "-o", method)
        assert outcome.code == 3
        assert f"quantised by {method}" in outcome.err


def test_several_data_sets_are_each_named(entangle: Entangle) -> None:
    write("a.jsonl", ROWS[:2])
    Path("b.json").write_text(json.dumps(ROWS[2:5]))
    outcome = entangle("scan", MODEL, "a.jsonl", "b.json", "-o", "run", "--json", "run.json")
    assert outcome.code == 0
    found = document()
    assert [(pair["index"], pair["file"]) for pair in found["pairs"]] == [
        (0, "a.jsonl"), (1, "a.jsonl"), (2, "b.json"), (3, "b.json"), (4, "b.json")
    ]  # fmt: skip
    assert [(each["name"], each["pairs"]) for each in found["summary"]["data_sets"]] == [("a.jsonl", 2), ("b.json", 3)]
    assert "of 2 pairs the wrong way: a.jsonl" in outcome.out
    assert "of 3 pairs the wrong way: b.json" in outcome.out
    for output in ("markdown", "html"):
        shown = entangle("report", "run", "--format", output).out
        assert "a.jsonl" in shown
        assert "b.json" in shown
    together = scanned(entangle, MODEL, write("all.jsonl", ROWS[:5]), "-o", "all")
    assert [pair["cosine"] for pair in found["pairs"]] == pytest.approx([pair["cosine"] for pair in together["pairs"]])
    assert entangle("filter", "run", "b.json", "-o", "kept.json", "--keep", "cosine < 2").code == 0
    assert json.loads(Path("kept.json").read_text()) == ROWS[2:5]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_data_come_from_a_pipe(kind: str, entangle: Entangle, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "jsonl":
        text = "".join(json.dumps(row) + "\n" for row in ROWS[:2])
    else:
        text = "prompt,chosen,rejected\n" + "".join(
            ",".join(f'"{row[name]}"' for name in ("prompt", "chosen", "rejected")) + "\n" for row in ROWS[:2]
        )
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    found = scanned(entangle, MODEL, "-", "-o", "run")
    assert found["summary"]["pairs"] == 2
    assert found["manifest"]["identity"]["data"]["name"] == "stdin"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert "standard input is empty" in entangle("inspect", "-").err


def test_helpsteer2_rows_are_joined_by_prompt(entangle: Entangle) -> None:
    rows = [
        {"prompt": prompt, "response": text, "helpfulness": score}
        for prompt, text, score in (("p", " a", 1), ("p", " b", 4), ("q", " c", 2), ("q", " d", 2), ("r", " e", 3))
    ]
    found = scanned(entangle, MODEL, write("a.jsonl", rows), "-o", "run")
    assert [(pair["index"], pair["reason"]) for pair in found["pairs"]] == [(0, None), (2, "tie"), (4, "malformed")]


def test_a_tokenizer_from_elsewhere(entangle: Entangle) -> None:
    folder = copied()
    tokenizer = Path("tokenizer")
    tokenizer.mkdir()
    for path in folder.glob("tokenizer*"):
        path.rename(tokenizer / path.name)
    outcome = entangle("scan", folder, LONG, "--limit", "2", "-o", "none")
    assert (outcome.code, "--tokenizer NAME" in outcome.err) == (3, True)
    found = scanned(entangle, folder, LONG, "--limit", "2", "-o", "run", "--tokenizer", tokenizer)
    plain = scanned(entangle, MODEL, LONG, "--limit", "2", "-o", "plain")
    assert [pair["cosine"] for pair in found["pairs"]] == [pair["cosine"] for pair in plain["pairs"]]
    assert found["manifest"]["identity"]["model"]["tokenizer"]["name"] == "tokenizer"
    assert "W-OTHER-TOKENIZER" not in codes(found)
    small_tokenizer().save_pretrained("other")
    other = scanned(entangle, MODEL, LONG, "--limit", "2", "-o", "other-run", "--tokenizer", "other")
    assert "tokens have other ids" in codes(other)["W-OTHER-TOKENIZER"]


@pytest.mark.parametrize(
    ("words", "code", "found", "remedy"),
    [
        (("scan", LONG, MODEL), 2, "is a data file, and DATA", "swap the arguments"),
        (("scan", MODEL, MODEL), 3, "a checkpoint, not a data set", "the checkpoint first"),
        (("scan", LONG, LONG), 3, "a data file, not a checkpoint folder", "the checkpoint first"),
        (("report", LONG), 3, "a file, not a run", "scan first"),
        (("report", "nowhere"), 3, "no such folder", "scan first"),
        (("report", "--format", "pdf"), 2, "--format pdf", "one of terminal, html"),
        (("gate", "x", "--max-skipped", "few"), 2, "--max-skipped few", "a number"),
        (("scan", MODEL, LONG, "--limit", "0"), 2, "--limit 0", "1 or more"),
        (("scan", MODEL, LONG, "--max-lenght", "3"), 2, "no option --max-lenght", "did you mean --max-length?"),
        (("scan", MODEL), 2, "DATA... is missing", "entangle scan MODEL DATA..."),
        (("scna", MODEL), 2, "no command 'scna'", "did you mean entangle scan?"),
        (("tokens", MODEL, LONG), 2, "--row is missing", "add --row VALUE"),
        (("scan", MODEL, LONG, "--split"), 2, "--split without a value", "--split VALUE"),
        (("schema", "x", "y"), 2, "more arguments than it takes", "leave them out"),
    ],
)
def test_messages_are_three_lines_with_the_next_step(
    words: tuple[Any, ...], code: int, found: str, remedy: str, entangle: Entangle
) -> None:
    outcome = entangle(*words)
    assert outcome.code == code
    assert len(outcome.err.strip().splitlines()) == 3
    assert found in outcome.err.splitlines()[0]
    assert remedy in " ".join(outcome.err.split())


def test_a_missing_run_lists_the_existing_runs(entangle: Entangle) -> None:
    assert entangle("scan", MODEL, LONG, "--limit", "1", "-q", "-o", "entangle-runs/mine").code == 0
    assert "entangle-runs/mine" in entangle("report", "nowhere").err


def test_a_conversation_without_a_template_names_the_option(entangle: Entangle) -> None:
    talk = [{"role": "user", "content": "q"}]
    answers = {side: [{"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
    folder = copied()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = None
    for path in folder.glob("*.jinja"):
        path.unlink()
    tokenizer.save_pretrained(folder)
    outcome = entangle("scan", folder, write("a.jsonl", [{"prompt": talk, **answers}]), "-o", "run")
    assert (outcome.code, "--chat-template FILE" in outcome.err) == (3, True)


def test_the_reading_of_an_unread_column_is_offered(entangle: Entangle) -> None:
    rows = [{"conversations": [{"from": "human", "value": "q"}], "chosen": "Sure: a", "rejected": "Sure: b"}] * 2
    shown = " ".join(entangle("inspect", write("a.jsonl", rows)).out.split())
    assert "W-QUESTION-UNUSED (2)" in shown
    assert "conversations; --data-format turns reads it" in shown
    refused = entangle("inspect", "a.jsonl", "--data-format", "sharegpt").out
    assert '"chosen" is a string' in refused
    read = entangle("inspect", "a.jsonl", "--data-format", "turns", "--json", "shown.json")
    assert read.code == 0
    assert document("shown.json")["pairs"][0]["prompt"] == [{"role": "user", "content": "q"}]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_kept_lines_keep_their_bytes(end: str, mark: bytes, entangle: Entangle) -> None:
    header = f"id,prompt,chosen,rejected{end}"
    records = [
        f'007,"{ROWS[0]["prompt"]}{end}more"," the ""warm"" mat, by", a cold stone.{end}',
        f"008,Once, a girl ran., ran.{end}",
        "1e5,=1+1, two, 3.0",
    ]
    Path("a.csv").write_bytes(mark + (header + "".join(records)).encode())
    assert entangle("scan", MODEL, "a.csv", "-o", "run", "-q", "--json", "run.json").code == 0
    cosine = document()["pairs"][1]["cosine"]
    assert entangle("filter", "run", "a.csv", "-o", "c.csv", "--drop", f"cosine == {cosine!r}").code == 0
    assert Path("c.csv").read_bytes() == mark + (header + records[0] + records[2] + end).encode()
    lines = [json.dumps(row) for row in ROWS[:3]]
    Path("a.jsonl").write_bytes(mark + end.join(lines).encode())
    assert entangle("scan", MODEL, "a.jsonl", "-o", "lines", "-q", "--json", "run.json").code == 0
    cosine = document()["pairs"][0]["cosine"]
    assert entangle("filter", "lines", "a.jsonl", "-o", "b.jsonl", "--drop", f"cosine == {cosine!r}").code == 0
    assert Path("b.jsonl").read_bytes() == mark + (end.join(lines[1:]) + end).encode()
