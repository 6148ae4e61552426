"""Measured folders cannot run code or change settings, and a passed gate has judged the stated data."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import datasets
import pytest

from tests.cli.conftest import LONG, MODEL, Entangle

SCAN = ("scan", MODEL, LONG, "--limit", "4", "-q", "-o")
RULE = ("--fail-if", "both_fall_rate > 0.999")


def entangle_process(*words: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    """Run the console command in a separate process with its own streams."""
    code = "from entangle_cli.cli.app import main; main()"
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, text=True, check=False, **options)  # type: ignore[call-overload, no-any-return]


@pytest.fixture
def run(entangle: Entangle) -> str:
    """Eight pairs of a longer data set."""
    assert entangle("scan", MODEL, LONG, "--limit", "8", "-q", "-o", "run").code == 0
    return "run"


@pytest.mark.parametrize(
    "key", ["trust-remote-code", "pickled-weights", "debug", "dry-run", "output", "json", "scan.json", "gate.write"]
)
def test_options_with_side_effects_are_command_line_only(entangle: Entangle, tmp_path: Path, key: str) -> None:
    table, _, name = key.rpartition(".")
    value = '["json=x"]' if name == "write" else "true" if "-" in name or name == "debug" else '"x"'
    (tmp_path / "entangle.toml").write_text((f"[{table}]\n" if table else "") + f"{name} = {value}\n")
    outcome = entangle(*SCAN, "run")
    assert outcome.code == 2
    assert "set outside the command line" in outcome.err


def test_options_with_side_effects_are_not_read_from_the_environment(
    entangle: Entangle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENTANGLE_TRUST_REMOTE_CODE", "1")
    outcome = entangle(*SCAN, "run")
    assert (outcome.code, "ENTANGLE_TRUST_REMOTE_CODE" in outcome.err) == (2, True)


@pytest.mark.parametrize("where", ["model", "data"])
def test_a_file_inside_what_is_measured_is_ignored_and_named(
    entangle: Entangle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    shutil.copytree(MODEL, tmp_path / "model")
    (tmp_path / "data").mkdir()
    shutil.copy(LONG, tmp_path / "data/rows.jsonl")
    (tmp_path / where / "entangle.toml").write_text("trust-remote-code = true\nlimit = 1\n")
    monkeypatch.chdir(tmp_path / where)
    names = {"model": ".", "data": "../data"} if where == "model" else {"model": "../model", "data": "."}
    outcome = entangle("scan", names["model"], names["data"], "--limit", "3", "-o", tmp_path / "run")
    assert outcome.code == 0
    assert "entangle.toml is ignored" in outcome.err
    assert json.loads((tmp_path / "run/manifest.json").read_text())["configuration"]["options"] == {}


def test_options_from_files_are_reported_and_stored(
    entangle: Entangle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "entangle.toml").write_text("limit = 3\nfail-if = ['both_fall_rate > 0.999']\nbeta = 0.2\n")
    monkeypatch.setenv("ENTANGLE_MAX_LENGTH", "300")
    outcome = entangle("scan", MODEL, LONG, "-o", "run", "--beta", "0.3")
    assert outcome.code == 0
    said = " ".join(outcome.err.split())
    assert "limit (entangle.toml)" in said
    assert "max-length (ENTANGLE_MAX_LENGTH)" in said
    assert "the command line takes precedence over beta (entangle.toml)" in said
    options = json.loads(Path("run/manifest.json").read_text())["configuration"]["options"]
    assert options == {"limit": "entangle.toml", "fail-if": "entangle.toml", "max-length": "ENTANGLE_MAX_LENGTH"}
    verdict = " ".join(outcome.out.split())
    assert "3 of 100 rows of the data; --limit 3 (entangle.toml)" in verdict
    assert "limit 99.9 % (entangle.toml): passed" in verdict


def test_the_working_directory_holds_no_modules_of_ours(tmp_path: Path) -> None:
    for name in ("numpy", "dataclasses", "typing", "rich", "json", "torch"):
        (tmp_path / f"{name}.py").write_text("open('acted', 'w').close()\n")
    environment = {**os.environ, "PYTHONPATH": ""}
    command = [sys.executable, "-m", "entangle_cli", "schema"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "acted").exists()


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A checkpoint whose only shard lies in a subfolder."""
    folder = shutil.copytree(MODEL, tmp_path / "sharded")
    (folder / "sub").mkdir()
    (folder / "model.safetensors").rename(folder / "sub/shard.safetensors")
    from safetensors import safe_open

    with safe_open(folder / "sub/shard.safetensors", framework="pt") as file:
        names = dict.fromkeys(file.keys(), "sub/shard.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return folder


def test_a_shard_in_a_subfolder_is_part_of_the_identity(entangle: Entangle, sharded: Path) -> None:
    words = ("scan", sharded, LONG, "--limit", "2", "-q", "-o", "run")
    assert entangle(*words).code == 0
    assert "sub/shard.safetensors" in json.loads(Path("run/manifest.json").read_text())["identity"]["model"]["files"]
    shard = sharded / "sub/shard.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    outcome = entangle(*words)
    assert (outcome.code, "different model" in outcome.err) == (2, True)


@pytest.mark.parametrize("way", ["../outside/shard.safetensors", "absolute", "link"])
def test_a_shard_outside_the_folder_is_refused(entangle: Entangle, sharded: Path, tmp_path: Path, way: str) -> None:
    (sharded / "sub").rename(tmp_path / "outside")
    name = str(tmp_path / "outside/shard.safetensors") if way == "absolute" else way
    if way == "link":
        (sharded / "sub").symlink_to(tmp_path / "outside")
        name = "sub/shard.safetensors"
    index = sharded / "model.safetensors.index.json"
    names = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names, name)}))
    outcome = entangle("scan", sharded, LONG, "--limit", "2", "-q")
    assert (outcome.code, "not inside the folder" in outcome.err) == (3, True)


@pytest.mark.parametrize("name", ["../other/data.arrow", "/data.arrow"])
def test_a_saved_data_set_names_no_files_outside(entangle: Entangle, tmp_path: Path, name: str) -> None:
    datasets.Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}]).save_to_disk(str(tmp_path / "saved"))
    state = json.loads((tmp_path / "saved/state.json").read_text())
    (tmp_path / "saved/state.json").write_text(json.dumps({**state, "_data_files": [{"filename": name}]}))
    outcome = entangle("inspect", "saved")
    assert (outcome.code, "not inside the folder" in outcome.err) == (3, True)


@pytest.mark.parametrize(
    "configs",
    [
        "data_files: ../other.jsonl",
        "data_files: [{split: train, path: /other.jsonl}]",
        "data_dir: ../x",
        "data_files: 'http://localhost:1/x.jsonl'",
    ],
)
def test_a_readme_cannot_point_outside_the_folder(entangle: Entangle, tmp_path: Path, configs: str) -> None:
    (tmp_path / "data").mkdir()
    shutil.copy(LONG, tmp_path / "other.jsonl")
    shutil.copy(LONG, tmp_path / "data/rows.jsonl")
    (tmp_path / "data/README.md").write_text(f"---\nconfigs:\n- config_name: default\n  {configs}\n---\n")
    outcome = entangle("inspect", "data")
    assert (outcome.code, "not inside the folder" in outcome.err) == (3, True), outcome.err


def test_yaml_aliases_are_refused(entangle: Entangle, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    shutil.copy(LONG, tmp_path / "data/rows.jsonl")
    (tmp_path / "data/README.md").write_text("---\na: &a [x, x]\nb: [*a, *a]\n---\n")
    outcome = entangle("inspect", "data")
    assert (outcome.code, "aliases" in outcome.err) == (3, True)


def test_data_that_change_while_they_are_read_are_refused(
    entangle: Entangle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from entangle_cli.diagnose.scan.measurer import Measurer

    data = tmp_path / "rows.jsonl"
    shutil.copy(LONG, data)
    measure = Measurer.start

    def replacing(self: Measurer, rows: list[object]) -> object:
        data.write_bytes(LONG.read_bytes())
        return measure(self, rows)  # type: ignore[arg-type]

    monkeypatch.setattr(Measurer, "start", replacing)
    outcome = entangle("scan", MODEL, data, "--limit", "4", "-q", "-o", "run", *RULE)
    assert (outcome.code, "changed while it was in use" in outcome.err) == (3, True)
    assert json.loads(Path("run/manifest.json").read_text())["status"] == "partial"


def test_a_run_that_lacks_rows_is_refused(entangle: Entangle, run: str) -> None:
    import hashlib

    import pyarrow.parquet

    manifest = json.loads(Path(run, "manifest.json").read_text())
    part = Path(run, "pairs", manifest["parts"][0]["file"])
    table = pyarrow.parquet.read_table(part)
    pyarrow.parquet.write_table(table.slice(1), part)
    digest = hashlib.sha256(part.read_bytes()).hexdigest()
    manifest["parts"][0] |= {"rows": table.num_rows - 1, "sha256": digest}
    Path(run, "manifest.json").write_text(json.dumps(manifest))
    outcome = entangle("gate", run, *RULE)
    assert (outcome.code, "1 rows are missing" in outcome.err) == (3, True)


def test_rows_that_were_never_read_count_as_not_measured(entangle: Entangle, run: str) -> None:
    assert entangle("gate", run, *RULE).code == 0
    outcome = entangle("gate", run, *RULE, "--max-skipped", "0.5")
    assert (outcome.code, "92 of 100 rows were not measured" in outcome.out) == (5, True)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--dtype", "float64"), "dtype"),
        (("--max-length", "40"), "max_length"),
        (("--loss", "ipo"), "loss"),
    ],
)
def test_a_baseline_is_of_the_same_measurement(entangle: Entangle, run: str, words: tuple[str, ...], what: str) -> None:
    assert entangle("scan", MODEL, LONG, "--limit", "2", "-q", "-o", "before", *words).code == 0
    outcome = entangle("gate", run, *RULE, "--only-new", "--baseline", "before")
    assert (outcome.code, f"different {what}" in outcome.err) == (2, True), outcome.err
    assert entangle("gate", run, *RULE, "--only-new", "--baseline", run).code == 2


def test_a_baseline_may_have_read_longer_rows(entangle: Entangle, run: str) -> None:
    words = ("--limit", "2", "-q", "-o", "before", "--max-row-bytes", "100000")
    assert entangle("scan", MODEL, LONG, *words).code == 0
    assert entangle("gate", run, *RULE, "--only-new", "--baseline", "before").code in (0, 1)


def test_memory_that_is_short_while_a_config_is_read(
    entangle: Entangle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from entangle_cli.data import model_config

    def short(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(model_config.PreTrainedConfig, "get_config_dict", short)
    outcome = entangle("scan", MODEL, LONG, "-o", tmp_path / "run")
    assert (outcome.code, "out of memory on this machine" in outcome.err) == (4, True)


def test_long_texts_end_a_window_and_change_no_number(
    entangle: Entangle, run: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from entangle_cli.diagnose.scan import row_reader

    monkeypatch.setattr(row_reader, "WINDOW_CHARACTERS", 300)
    assert entangle("scan", MODEL, LONG, "--limit", "8", "-q", "-o", "short", "--json", "short.json").code == 0
    documents = ((tmp_path / "short.json").read_text(), entangle("report", run, "--format", "json").out)
    pairs = [json.loads(document)["pairs"] for document in documents]
    assert [pair["pair_id"] for pair in pairs[0]] == [pair["pair_id"] for pair in pairs[1]]
    assert [pair["cosine"] for pair in pairs[0]] == pytest.approx([pair["cosine"] for pair in pairs[1]], abs=1e-6)


def test_a_pair_that_the_baseline_skipped_is_new(entangle: Entangle, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in LONG.read_text().splitlines()[:2]]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert entangle("scan", MODEL, "rows.jsonl", "-q", "-o", "new").code == 0
    manifest = json.loads(Path("new/manifest.json").read_text())
    from entangle_cli.records.pair import PairRecord
    from entangle_cli.store.reading import read_run
    from entangle_cli.store.writing import open_run

    ids = read_run(Path("new")).columns["pair_id"]
    skipped = [PairRecord(index, pair_id, "skipped", "prompt_too_long") for index, pair_id in enumerate(ids)]
    from entangle_cli.records.run import Identity

    with open_run(
        Path("before"), Identity(manifest["identity"]), {"loss": manifest["loss"], "plan": manifest["plan"]}
    ) as writer:
        writer.add(skipped)
    outcome = entangle("gate", "new", "--fail-if", "pairs > 0", "--only-new", "--baseline", "before")
    assert (outcome.code, "left out 0 pairs" in " ".join(outcome.out.split())) == (1, True)


def test_a_dry_run_judges_nothing(entangle: Entangle, tmp_path: Path) -> None:
    assert entangle(*SCAN, "run", "--dry-run", *RULE).code == 2
    (tmp_path / "entangle.toml").write_text("fail-if = ['pairs < 1']")
    outcome = entangle(*SCAN, "run", "--dry-run")
    assert (outcome.code, "(entangle.toml)" in outcome.err) == (2, True)


@pytest.mark.parametrize(
    "rule",
    ["both_fall_rate > 1", "both_fall_rate < 0", "cosine_max > 1", "cosine_mean < -1", "pairs < 0", "pairs == 1.5",
     "norm_ratio_min < 0", "both_fall_rate_increase > 1", "both_fall_rate > \u0661", "both_fall_rate > 0_1"],
)  # fmt: skip
def test_a_rule_that_is_never_true_is_refused(entangle: Entangle, run: str, rule: str) -> None:
    assert entangle("gate", run, "--fail-if", rule, "--baseline", "before").code == 2


FAILING = ("--fail-if", "pairs > 0")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_full_stream(run: str, stream: str) -> None:
    def code(*words: str) -> int:
        with Path("/dev/full").open("w") as full:
            other = "stderr" if stream == "stdout" else "stdout"
            return entangle_process(*words, **{stream: full, other: subprocess.DEVNULL}).returncode

    assert code("gate", run, *FAILING) == 1
    assert code("report", "nowhere") == 3
    if stream == "stdout":
        assert code("gate", run, *RULE) == 4
        assert code("report", run) == 4
        assert code("schema") == 4


def test_a_closed_stream(run: str) -> None:
    for words, closed, expected in (
        (f"gate {run} --fail-if 'pairs > 0'", ">&-", 1),
        (f"report {run}", ">&-", 4),
        ("report nowhere", "2>&-", 3),
    ):
        code = "from entangle_cli.cli.app import main; main()"
        command = f"{sys.executable} -c '{code}' {words} {closed}"
        assert subprocess.run(["sh", "-c", command], check=False).returncode == expected, words


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe"])
def test_a_step_summary_that_cannot_be_written_changes_no_verdict(
    entangle: Entangle, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    summary = tmp_path / ("no/such/summary" if kind == "missing" else "summary")
    if kind == "folder":
        summary.mkdir()
    if kind == "pipe":
        os.mkfifo(summary)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    failed = entangle("gate", run, *FAILING)
    assert (failed.code, "GITHUB_STEP_SUMMARY" in failed.err) == (1, True)
    assert entangle("gate", run, *RULE).code == 0


@pytest.mark.parametrize("columns", ["abc", "-3", "0", "\u0663"])
def test_an_invalid_terminal_width(entangle: Entangle, run: str, monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert entangle("report", run).code == 0


def test_a_deleted_working_directory(run: str, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    code = "from entangle_cli.cli.app import main; main()"
    command = f"rmdir {gone}; exec {sys.executable} -c '{code}' report {tmp_path / run}"
    done = subprocess.run(["sh", "-c", command], cwd=gone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("what", ["manifest.json", "summary.json", "pairs/part-000000.parquet", ".lock"])
def test_runs_are_never_overwritten(entangle: Entangle, run: str, what: str) -> None:
    before = Path(run, what).read_bytes() if Path(run, what).exists() else None
    outcome = entangle("gate", run, *RULE, "--write", f"json={run}/{what}")
    assert (outcome.code, "a run's own file" in outcome.err) == (2, True)
    assert (Path(run, what).read_bytes() if Path(run, what).exists() else None) == before
    assert entangle("gate", run, *RULE, "--write", f"json={run}/verdict.json").code == 0


def test_checkpoints_and_data_are_never_overwritten(entangle: Entangle, tmp_path: Path) -> None:
    model = shutil.copytree(MODEL, tmp_path / "model")
    for target in (model / "config.json", model / "new.json"):
        assert entangle("scan", model, LONG, "--limit", "1", "-q", "--json", target).code == 2
    assert json.loads((model / "config.json").read_text())["model_type"] == "llama"


def test_a_name_with_a_line_break_does_not_start_a_new_line(entangle: Entangle) -> None:
    outcome = entangle("scan", MODEL, LONG, "--limit", "2", "-o", "run\n::error::x")
    assert outcome.code == 0
    assert "\n::error::" not in outcome.err + outcome.out


class PanicException(BaseException):
    """Like a Rust panic: not a subclass of Exception."""


def test_a_row_that_kills_the_tokenizer_is_skipped(
    entangle: Entangle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import PreTrainedTokenizerFast

    rows = [{"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "kill", "chosen": "b", "rejected": "c"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    encode = PreTrainedTokenizerFast._encode_plus

    def panicking(self: PreTrainedTokenizerFast, text: str, *args: object, **options: object) -> object:
        if "kill" in text:
            raise PanicException("stack overflow in the pattern")
        return encode(self, text, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(PreTrainedTokenizerFast, "_encode_plus", panicking)
    outcome = entangle("scan", MODEL, "rows.jsonl", "-o", "run")
    assert outcome.code == 0
    shown = " ".join(entangle("report", "run", "--verbose").out.split())
    assert "the tokenizer rejects the text: stack overflow in the pattern" in shown


BLANKS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Regular expression used by the tokenizers of Llama 3 and later models to split text."""


def test_ten_million_blanks_are_skipped(entangle: Entangle, tmp_path: Path) -> None:
    model = shutil.copytree(MODEL, tmp_path / "model")
    document = json.loads((model / "tokenizer.json").read_text())
    split = {"type": "Split", "pattern": {"Regex": BLANKS}, "behavior": "Isolated", "invert": False}
    bytes_of = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, bytes_of]}
    (model / "tokenizer.json").write_text(json.dumps(document))
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": " " * 10**7, "chosen": "b", "rejected": "c"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    outcome = entangle("scan", model, "rows.jsonl", "-o", "run")
    assert outcome.code == 0
    assert "1 row not measured" in " ".join(outcome.out.split())


LOOPS = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}"


def chat_rows(tmp_path: Path) -> Path:
    data = tmp_path / "chats.jsonl"
    turns = {
        name: [{"role": role, "content": f"{name} words"}]
        for name, role in (("prompt", "user"), ("chosen", "assistant"), ("rejected", "assistant"))
    }
    data.write_text(json.dumps(turns) + "\n")
    return data


def test_a_chat_template_without_an_end_is_refused(
    entangle: Entangle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from entangle_cli.data import rendering

    (tmp_path / "endless.jinja").write_text("{% for c in range(100000) %}" + LOOPS + "{% endfor %}")
    monkeypatch.setattr(rendering, "isolated_templates", partial(rendering.isolated_templates, seconds=0.2))
    for command in (
        ("scan", MODEL, chat_rows(tmp_path), "-o", "run"),
        ("inspect", chat_rows(tmp_path), "--model", MODEL),
    ):
        outcome = entangle(*command, "--chat-template", "endless.jinja")
        assert outcome.code == 3
        assert "the chat template takes more than 0.2 seconds" in outcome.err


def test_a_row_that_a_chat_template_makes_too_long_is_skipped(entangle: Entangle, tmp_path: Path) -> None:
    (tmp_path / "long.jinja").write_text("{% for m in messages %}{{ m.content * 100 }}{% endfor %}")
    words = ("inspect", chat_rows(tmp_path), "--model", MODEL, "--chat-template", "long.jinja")
    outcome = entangle(*words, "--max-row-bytes", "2000")
    assert "a text of 2,400 characters; --max-row-bytes raises the limit" in " ".join(outcome.out.split())
    assert "2,000" not in entangle(*words, "--max-row-bytes", "3000").out


def test_a_panic_is_not_a_failed_gate(entangle: Entangle, monkeypatch: pytest.MonkeyPatch) -> None:
    from entangle_cli.api import scanning

    def panicking(*args: object, **options: object) -> None:  # noqa: ARG001
        raise PanicException("out of bounds")

    monkeypatch.setattr(scanning, "scan_into_run", panicking)
    assert entangle(*SCAN, "run").code == 4


def test_a_merged_run_of_a_slice_is_whole(entangle: Entangle) -> None:
    for shard in ("1/2", "2/2"):
        words = ("--split", "train[:6]", "--shard", shard, "-q", "-o", f"run{shard[0]}")
        assert entangle("scan", MODEL, LONG, *words).code == 0
    assert entangle("merge", "run1", "run2", "-o", "all").code == 0
    assert entangle("gate", "all", "--fail-if", "pairs < 6").code == 0


def test_the_verdict_says_how_many_rows_have_no_measurement(
    entangle: Entangle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENTANGLE_MAX_LENGTH", "27")
    assert entangle("scan", MODEL, LONG, "-q", "-o", "run").code == 0
    outcome = entangle("gate", "run", *RULE)
    assert "100 of 100 rows of the data, 95 of them without a measurement" in " ".join(outcome.out.split())


@pytest.mark.parametrize("option", ["--ref-model", "--chat-template", "--tokenizer"])
def test_input_files_are_never_overwritten(entangle: Entangle, tmp_path: Path, option: str) -> None:
    model = shutil.copytree(MODEL, tmp_path / "copy")
    named, target = (
        (model / "chat_template.jinja",) * 2 if option == "--chat-template" else (model, model / "config.json")
    )
    before = target.read_bytes()
    outcome = entangle("scan", MODEL, LONG, "--limit", "2", option, named, "-o", "run", "--json", target)
    assert (outcome.code, "would change what is read" in outcome.err) == (2, True)
    assert target.read_bytes() == before


@pytest.mark.parametrize("option", ["--chat-template", "--state"])
def test_pipes_are_not_waited_for(entangle: Entangle, tmp_path: Path, option: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    command = ("forecast", MODEL, LONG, "--limit", "2") if option == "--state" else ("scan", MODEL, LONG, "-o", "run")
    outcome = entangle(*command, option, "pipe")
    assert outcome.code in (2, 3)
    assert "a pipe, a device or a socket" in outcome.err


def test_a_template_nested_too_deeply_is_refused(entangle: Entangle, tmp_path: Path) -> None:
    (tmp_path / "deep.jinja").write_text("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}")
    assert entangle("scan", MODEL, LONG, "--chat-template", "deep.jinja", "-o", "run").code == 2


def test_template_arguments_that_pad_are_skipped(entangle: Entangle, tmp_path: Path) -> None:
    row = json.loads(chat_rows(tmp_path).read_text())
    row["chat_template_kwargs"] = {"padding": "max_length", "max_length": 2 * 10**9}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    outcome = entangle("inspect", "rows.jsonl", "--model", MODEL)
    assert "chat_template_kwargs has padding" in " ".join(outcome.out.split())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json.gz", b"[" + b" " * 10**7 + b"]"),
        ("a.json.gz", b"[" + b"{}," * 10**7 + b"{}]"),
        ("a.jsonl.gz", b'{"chosen": "a", "rejected": "b", "prompt": "c"}' + b"\n" * 10**7),
    ],
)
def test_a_compression_bomb_is_refused(
    entangle: Entangle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes
) -> None:
    monkeypatch.setattr("entangle_cli.data.compression.LARGEST_EXPANDED", 10**6)
    (tmp_path / name).write_bytes(gzip.compress(content, 1))
    outcome = entangle("inspect", name)
    assert (outcome.code, "it decompresses to more than" in outcome.err) == (3, True)


def test_a_row_of_very_many_answers_makes_no_pair_of_each_two(entangle: Entangle, tmp_path: Path) -> None:
    answers = [{"answer": f"a{number}", "rank": number} for number in range(101)]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "p", "answers": answers}) + "\n")
    assert "--ranked all allows at most 100 per row" in " ".join(
        entangle("inspect", "rows.jsonl", "--ranked", "all").out.split()
    )
    assert entangle("inspect", "rows.jsonl", "--ranked", "adjacent").code == 0


def test_a_parquet_file_that_claims_rows_without_bytes_is_refused(entangle: Entangle, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    column = pyarrow.nulls(5 * 10**6, pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"chosen": column, "rejected": column}), tmp_path / "a.parquet")
    outcome = entangle("inspect", "a.parquet")
    assert (outcome.code, "5,000,000 rows of 2 columns" in outcome.err) == (3, True)
