"""Hub names, with a local hub: names that are read, refused, and never requested."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from entangle_cli.data import hub
from entangle_cli.data.sources import open_source
from entangle_cli.data.tokenizer import tokenizer_of_model
from entangle_cli.errors import DataError, ModelError
from tests.data.fake_hub import COMMIT, fake_hub

MODEL = Path(__file__).resolve().parents[2] / "sample_data/model"
SCAN = ("scan", "team/policy", "team/prefs", "--split", "test", "-q", "--json")
ONLINE: dict[str, tuple[str, ...]] = {
    "slice": ("inspect", "team/prefs", "--split", "train[1:3]"),
    "no split chosen": ("inspect", "team/prefs"),
    "limit": ("inspect", "team/prefs", "--split", "test", "--limit", "2"),
    "scan": (*SCAN, "online.json", "-o", "one"),
    "adapter": ("scan", "team/lora", "team/prefs", "--split", "test", "-q", "-o", "lora"),
    "no data": ("inspect", "team/nothing"),
    "ill data": ("inspect", "team/ill"),
    "ill model": ("scan", "team/ill", "team/prefs", "--split", "test"),
    "no data revision": ("inspect", "team/prefs", "--split", "test", "--data-revision", "v9"),
    "no split": ("inspect", "team/prefs", "--split", "dev"),
    "no configuration": ("inspect", "team/prefs", "--config-name", "other"),
    "no model": ("scan", "team/nothing", "team/prefs", "--split", "test"),
    "no model revision": ("scan", "team/policy", "team/prefs", "--split", "test", "--model-revision", "v9"),
}
OFFLINE: dict[str, tuple[str, ...]] = {
    "scan": (*SCAN, "offline.json", "-o", "two"),
    "no data": ("inspect", "team/unknown"),
    "no model": ("scan", "team/unknown", "team/prefs", "--split", "test"),
}
DAMAGED = {"inspect": ("inspect", "team/prefs", "--split", "test"), "scan": SCAN[:5]}
RUN_ALL = """
import contextlib, io, json, sys
from entangle_cli.cli.app import run
outcomes = {}
for name, words in json.load(sys.stdin).items():
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(words)
    outcomes[name] = [code, out.getvalue(), err.getvalue()]
print(json.dumps(outcomes))
"""


class Session(NamedTuple):
    """Results of the commands with a hub and then without it, and the requests to the hub."""

    folder: Path
    online: dict[str, tuple[int, str, str]]
    offline: dict[str, tuple[int, str, str]]
    damaged: dict[str, tuple[int, str, str]]
    asked: list[str]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    root, folder = tmp_path_factory.mktemp("hub"), tmp_path_factory.mktemp("user")
    data = root / "datasets/team/prefs/data"
    data.mkdir(parents=True)
    for split in ("train", "test"):
        rows = [{"prompt": "The owl is", "chosen": f" {split} {row}", "rejected": " no"} for row in range(5)]
        (data / f"{split}-00000.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copytree(MODEL, root / "models/team/policy")
    adapter = get_peft_model(AutoModelForCausalLM.from_pretrained(MODEL), LoraConfig(target_modules=["q_proj"]))
    adapter.peft_config["default"].base_model_name_or_path = "team/policy"
    adapter.save_pretrained(root / "models/team/lora")
    with fake_hub(root) as hub:
        online = commands(ONLINE, hub.address, folder)
        asked = list(hub.asked)
    offline = commands(OFFLINE, hub.address, folder)
    damage(folder / "home")
    return Session(folder, online, offline, commands(DAMAGED, hub.address, folder), asked)


def damage(home: Path) -> None:
    """Set the last offset of a text in every Arrow file of the cache to 2^30."""
    for path in home.rglob("prefs-test.arrow"):
        content = bytearray(path.read_bytes())
        place = content.rindex(struct.pack("<6i", *range(0, 60, 10)))  # five prompts of ten characters
        content[place + 20 : place + 24] = struct.pack("<i", 2**30)
        path.write_bytes(content)


def commands(cases: dict[str, tuple[str, ...]], address: str, folder: Path) -> dict[str, tuple[int, str, str]]:
    """Run in a separate process, because the hub's library reads its address only once."""
    variables = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1"}
    variables |= {"HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0", "PYTHONPATH": str(MODEL.parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL],
        env=variables,
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        cwd=folder,
        check=True,
    )
    found: dict[str, tuple[int, str, str]] = json.loads(done.stdout.splitlines()[-1])
    return found


def document(session: Session, name: str) -> Any:
    return json.loads((session.folder / name).read_text())


def test_a_slice_of_a_split(session: Session) -> None:
    code, out, err = session.online["slice"]
    assert code == 0, err
    assert "train 1" in out
    assert "hub data set, 2 rows" in out


def test_with_a_limit_only_the_beginning_is_fetched(session: Session) -> None:
    code, out, err = session.online["limit"]
    assert code == 0, err
    assert "2 rows" in out


def test_model_and_data_are_known_by_their_commits(session: Session) -> None:
    code, _, err = session.online["scan"]
    assert code == 0, err
    found = document(session, "online.json")
    identity = found["manifest"]["identity"]
    assert identity["model"] == {"name": "team/policy", "commit": COMMIT}
    assert identity["data"] == {"name": "team/prefs", "commit": COMMIT, "config": None, "split": "test", "rows": 5}
    assert [pair["status"] for pair in found["pairs"]] == ["ok"] * 5


def test_what_was_loaded_once_is_there_without_the_hub(session: Session) -> None:
    code, _, err = session.offline["scan"]
    assert code == 0, err
    before, after = (document(session, name) for name in ("online.json", "offline.json"))
    assert after["manifest"]["identity"] == before["manifest"]["identity"]
    assert [pair["cosine"] for pair in after["pairs"]] == [pair["cosine"] for pair in before["pairs"]]


def test_an_adapter_and_its_base(session: Session) -> None:
    code, _, err = session.online["adapter"]
    assert code == 0, err
    model = document(session, "lora/manifest.json")["identity"]["model"]
    assert (model["name"], model["base"]) == ("team/lora", {"name": "team/policy", "commit": COMMIT})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no split chosen", "several splits and none chosen"),
        ("no data", "team/nothing is not a local file and not accessible on the hub"),
        ("no data revision", "RevisionNotFound"),
        ("ill data", "team/ill is not a local file and not in the cache, and the hub cannot be reached"),
        ("ill model", "team/ill is not a local folder and not in the cache, and the hub cannot be reached"),
        ("no split", "no split 'dev'"),
        ("no configuration", "other"),
        ("no model", "team/nothing is not a local folder and not accessible on the hub"),
        ("no model revision", "RevisionNotFound"),
    ],
)
def test_a_missing_name_is_reported_in_three_lines(session: Session, name: str, message: str) -> None:
    refused(session.online[name], message)


@pytest.mark.parametrize("name", ["no data", "no model"])
def test_a_missing_copy_without_the_hub_is_reported_in_three_lines(session: Session, name: str) -> None:
    refused(session.offline[name], "team/unknown is no")


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_of_the_cache_ends_nothing(session: Session, name: str) -> None:
    code, out, err = session.damaged[name]
    refused((code, out, "\n".join(err.strip().splitlines()[-3:])), "a complete Arrow file")


def refused(outcome: tuple[int, str, str], message: str) -> None:
    code, _, err = outcome
    assert code == 3
    assert message in err
    assert [line.split(":")[0].strip() for line in err.strip().splitlines()] == ["error", "expected", "to do"]


@pytest.mark.parametrize(
    "name", ["./team/a", "team/a.jsonl", "team/a.jsonl.gz", "a/b/c", "/team/a", "~/a", "prefs", "", "team/a*"]
)
def test_what_looks_like_a_path_is_never_asked_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object) -> str:
        pytest.fail("the hub was asked")

    monkeypatch.setattr(hub, "_ask", asked)
    with pytest.raises(DataError, match="no such file or folder"):
        open_source(name)
    if not name.startswith("team/a."):
        with pytest.raises(ModelError, match="no such folder"):
            tokenizer_of_model(name)
