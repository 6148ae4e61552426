"""Checkpoints: loading, refusal with the name of the problem, and identity."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaModel,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from entangle_cli.data import patterns
from entangle_cli.data.checkpoint import Checkpoint, load_checkpoint, quiet_libraries
from entangle_cli.data.origin import find_origin, identity_of
from entangle_cli.data.parameters import select_parameters
from entangle_cli.errors import ExitCode, ModelError, UsageError
from entangle_cli.records.settings import LoadingSettings
from tests.data.tokenizers import small_tokenizer
from tests.data.trl_reference import tiny_llama
from tests.tiny_models import FAMILIES, tiny_model

CPU = torch.device("cpu")

SMALL: dict[str, Any] = {
    "vocab_size": 360,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}

WEIGHT = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint. Tests copy it before they damage it."""
    return save(tiny_llama(small_tokenizer()), tmp_path_factory.mktemp("saved") / "policy")


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "policy"))


def save(model: PreTrainedModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    small_tokenizer().save_pretrained(folder)
    return folder


def load(name: str | Path, dtype: str = "float32", loading: LoadingSettings | None = None) -> Checkpoint:
    with quiet_libraries():
        return load_checkpoint(str(name), dtype, CPU, loading)


def refusal(name: str | Path, loading: LoadingSettings | None = None) -> str:
    with pytest.raises(ModelError) as caught:
        load(name, loading=loading)
    assert caught.value.exit_code is ExitCode.INPUT
    assert caught.value.expected
    assert caught.value.remedy
    return caught.value.found


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_a_checkpoint_is_loaded_as_it_was_saved(saved: Path, dtype: str) -> None:
    checkpoint = load(saved, dtype)
    wanted = getattr(torch, dtype)
    original = dict(tiny_llama(small_tokenizer()).named_parameters())
    loaded = dict(checkpoint.model.named_parameters())
    assert loaded.keys() == original.keys()
    for name, parameter in loaded.items():
        assert parameter.dtype is wanted
        assert torch.equal(parameter, original[name].to(wanted))
    assert not checkpoint.model.training
    assert checkpoint.tokenizer("The sky")["input_ids"] == small_tokenizer()("The sky")["input_ids"]
    assert checkpoint.tokenizer.chat_template == small_tokenizer().chat_template


def test_weights_read_straight_to_a_device_are_the_same(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, with a CPU in its place."""
    plain = load_checkpoint(str(saved), "float32", CPU)
    monkeypatch.setattr("entangle_cli.data.checkpoint.loading_map", lambda device, device_map: {"": device})
    direct = load_checkpoint(str(saved), "float32", CPU)
    assert direct.identity == plain.identity
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(direct.model.state_dict()[name], tensor)


def test_a_sharded_checkpoint_is_loaded_whole(tmp_path: Path) -> None:
    model = tiny_llama(small_tokenizer())
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    small_tokenizer().save_pretrained(tmp_path)
    shards = sorted(path.name for path in tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    checkpoint = load(tmp_path)
    assert torch.equal(checkpoint.model.get_parameter(WEIGHT), model.get_parameter(WEIGHT))
    assert set(shards) < set(checkpoint.identity["files"])


def test_the_home_folder_may_be_written_as_a_tilde(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(saved.parent))
    monkeypatch.setenv("USERPROFILE", str(saved.parent))
    assert load("~/policy").identity["name"] == "policy"


PATHS = ["./no/such", "/no/such", "~/no-such", "no/such/folder", "no-such-folder", "..\\no\\such", "../such"]


@pytest.mark.parametrize("name", PATHS)
def test_what_looks_like_a_path_is_never_asked_for_on_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    for loader in (AutoConfig, AutoModelForCausalLM, AutoTokenizer):
        monkeypatch.setattr(loader, "from_pretrained", lambda *names, **_: asked.append(names))
    assert refusal(name) == f"{name}: no such folder"
    assert not asked


def test_a_hub_name_is_asked_for_and_its_absence_explained() -> None:
    """The suite is offline, so this name is never found."""
    name = "no-such-org/no-such-model"
    assert f"{name} is not a local folder and not in the cache, and the hub cannot be reached: " in refusal(name)


def test_a_file_is_no_checkpoint(saved: Path) -> None:
    assert refusal(saved / "config.json").endswith("config.json: a file, not a checkpoint folder")


def test_a_folder_without_a_config_is_refused(copied: Path) -> None:
    (copied / "config.json").unlink()
    assert refusal(copied) == f"{copied}: no config.json"


@pytest.mark.parametrize(
    ("key", "value"),
    [("model_type", ["llama"]), ("model_type", 3), ("architectures", "LlamaForCausalLM"), ("architectures", [None])],
)
def test_a_config_with_entries_of_another_kind_is_refused(key: str, value: object, copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, key: value}))
    assert f"config.json has {key} " in refusal(copied)


def test_a_config_with_more_layers_than_tensors_is_refused_at_once(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    config.pop("layer_types", None)
    (copied / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 10**6}))
    assert "1,000,000 layers" in refusal(copied)


def test_a_quantisation_whose_expressions_do_not_end_is_refused(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = json.loads((copied / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "modules_to_not_convert": [r"(\w*\.*)*!"]}
    (copied / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(patterns, "SECONDS", 1.0)
    with pytest.raises(ModelError, match="quantization_config: a regular expression takes more than 1 seconds"):
        load(copied)


@pytest.mark.parametrize(
    ("part", "entry"),
    [
        ("normalizer", {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1001}),
        (
            "normalizer",
            {
                "type": "Sequence",
                "normalizers": [{"type": "Replace", "pattern": {"Regex": "a"}, "content": "aa"}] * 10,
            },
        ),
        ("normalizer", {"type": "Prepend", "prepend": "a" * 1000}),
        ("normalizer", {"type": "Replace", "pattern": {"Regex": ""}, "content": "a" * 30}),
        ("decoder", {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}),
        (
            "post_processor",
            {
                "type": "TemplateProcessing",
                "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 100,
                "pair": [],
                "special_tokens": {},
            },
        ),
        (
            "post_processor",
            {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}] * 1001,
                "pair": [],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
            },
        ),
    ],
)
def test_a_tokenizer_that_expands_text_too_much_is_refused(copied: Path, part: str, entry: dict[str, Any]) -> None:
    document = json.loads((copied / "tokenizer.json").read_text())
    (copied / "tokenizer.json").write_text(json.dumps({**document, part: entry}))
    with pytest.raises(ModelError, match="the tokenizer makes"):
        load(copied)


@pytest.mark.parametrize("content", ["{broken", "{}", "[]", '{"model_type": "no-such-type"}'])
def test_an_unusable_config_is_refused(content: str, copied: Path) -> None:
    (copied / "config.json").write_text(content)
    assert refusal(copied).startswith((f"{copied}: the config cannot be loaded: ", f"{copied}/config.json: "))


def test_code_of_the_checkpoint_is_not_run(
    copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = copied / "ran"
    (copied / "config.json").write_text('{"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}')
    (copied / "own.py").write_text(
        f"import pathlib\nfrom transformers import PretrainedConfig\npathlib.Path({str(ran)!r}).touch()\n"
        "class OwnConfig(PretrainedConfig):\n    model_type = 'own'\n"
    )
    answered: list[str] = []
    monkeypatch.setattr("builtins.input", lambda prompt="": answered.append(prompt) or "y")
    assert refusal(copied) == f"{copied} needs its own code, which is not run: own.py"
    assert not ran.exists()
    assert not answered
    assert capsys.readouterr().out == ""


OTHER_MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "LlamaForSequenceClassification": lambda: LlamaForSequenceClassification(LlamaConfig(**SMALL)),
    "LlamaModel": lambda: LlamaModel(LlamaConfig(**SMALL)),
    "BertModel": lambda: BertModel(BertConfig(**SMALL)),
    "BertForMaskedLM": lambda: BertForMaskedLM(BertConfig(**SMALL)),
    "T5ForConditionalGeneration": lambda: T5ForConditionalGeneration(
        T5Config(vocab_size=360, d_model=16, d_ff=16, d_kv=8, num_layers=1, num_heads=2)
    ),
}


@pytest.mark.parametrize("name", OTHER_MODELS)
def test_a_model_of_another_kind_is_refused_by_name(name: str, tmp_path: Path) -> None:
    folder = save(OTHER_MODELS[name](), tmp_path / "other")
    assert json.loads((folder / "config.json").read_text())["architectures"] == [name]
    assert refusal(folder) == f"{folder} is {name}, not a causal language model"


def test_an_encoder_decoder_is_refused_without_its_architecture(tmp_path: Path) -> None:
    T5Config(vocab_size=360, d_model=16).save_pretrained(tmp_path)
    assert refusal(tmp_path) == f"{tmp_path} is t5, not a causal language model"


def test_a_missing_weight_is_refused_by_name(copied: Path) -> None:
    change_weights(copied, lambda weights: weights.pop(WEIGHT))
    assert refusal(copied) == f"{copied}: 1 weight missing or with a wrong shape, the first {WEIGHT}"


def test_a_weight_of_another_shape_is_refused_by_name(copied: Path) -> None:
    change_weights(copied, lambda weights: weights.update({WEIGHT: weights[WEIGHT][:5].contiguous()}))
    assert refusal(copied) == f"{copied}: 1 weight missing or with a wrong shape, the first {WEIGHT}"


def test_a_tied_head_is_not_missing(tmp_path: Path) -> None:
    folder = save(LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=True)), tmp_path / "tied")
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    tied = load(folder).model
    assert tied.lm_head.weight is tied.get_input_embeddings().weight


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")], ids=str)
def test_a_weight_that_is_not_finite_is_refused_by_name(value: float, copied: Path) -> None:
    change_weights(copied, lambda weights: weights[WEIGHT].view(-1)[-1:].fill_(value))
    assert refusal(copied) == f"{copied}: {WEIGHT} holds NaN or infinite values"


@pytest.mark.parametrize("left", [0, 100, 5000])
def test_a_cut_weight_file_is_refused(left: int, copied: Path) -> None:
    content = (copied / "model.safetensors").read_bytes()
    assert len(content) > left
    (copied / "model.safetensors").write_bytes(content[:left])
    assert refusal(copied).startswith(f"{copied}/model.safetensors: ")


def test_a_missing_shard_is_refused(tmp_path: Path) -> None:
    tiny_llama(small_tokenizer()).save_pretrained(tmp_path, max_shard_size="20KB")
    small_tokenizer().save_pretrained(tmp_path)
    lost = max(tmp_path.glob("model-*.safetensors"))
    lost.unlink()
    assert f"{tmp_path}: 1 of " in (found := refusal(tmp_path))
    assert found.endswith(f"shards are missing, the first {lost.name}")


def pickle_instead(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def test_pickled_weights_are_read_only_where_that_is_asked_for(copied: Path) -> None:
    before = dict(load(copied).model.named_parameters())
    pickle_instead(copied)
    assert refusal(copied) == f"{copied}: only pickled weights, such as pytorch_model.bin; a pickle may hold code"
    loaded = load(copied, loading=LoadingSettings(pickled_weights=True))
    assert list(loaded.warnings) == ["W-PICKLED"]
    assert "pytorch_model.bin" in loaded.identity["files"]
    for name, parameter in loaded.model.named_parameters():
        assert torch.equal(parameter, before[name])


class Runs:
    """An object whose unpickling would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_pickle_never_runs_code(copied: Path) -> None:
    pickle_instead(copied)
    torch.save({WEIGHT: Runs(copied / "ran")}, copied / "pytorch_model.bin")
    assert "the checkpoint cannot be loaded" in refusal(copied, loading=LoadingSettings(pickled_weights=True))
    assert not (copied / "ran").exists()


def test_safetensors_take_precedence_over_pickles(copied: Path) -> None:
    torch.save({}, copied / "pytorch_model.bin")
    assert load(copied, loading=LoadingSettings(pickled_weights=True)).warnings == {}


@pytest.mark.parametrize("shards", ["global_step100/zero_pp_rank_0_optim.pt", "pytorch_model_fsdp_0/a.distcp"])
def test_shards_of_a_training_are_refused_with_what_joins_them(shards: str, copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    (copied / shards).parent.mkdir()
    (copied / shards).touch()
    assert refusal(copied) == f"{copied}: only unmerged shards from distributed training"


def test_code_of_the_checkpoint_is_run_where_it_is_trusted(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    config |= {"model_type": "own", "architectures": ["Own"]}
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}
    (copied / "config.json").write_text(json.dumps(config))
    (copied / "own.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
        "class Own(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    assert refusal(copied) == f"{copied} needs its own code, which is not run: own.py"
    loaded = load(copied, loading=LoadingSettings(trust_remote_code=True))
    assert type(loaded.model).__name__ == "Own"
    assert list(loaded.warnings) == ["W-REMOTE-CODE"]
    assert "own.py" in loaded.identity["files"]


def test_a_gguf_file_is_refused_by_its_kind(copied: Path) -> None:
    (copied / "a.gguf").touch()
    assert refusal(copied / "a.gguf") == f"{copied / 'a.gguf'} is a GGUF file with quantised weights"


def test_a_chat_template_of_ones_own(copied: Path) -> None:
    template = copied.parent / "own.jinja"
    template.write_text("{% for m in messages %}{% generation %}{{ m.content }}!{% endgeneration %}{% endfor %}")
    loaded = load(copied, loading=LoadingSettings(chat_template=template))
    assert loaded.tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False) == "a!"
    assert loaded.identity["chat_template"] == hashlib.sha256(template.read_bytes()).hexdigest()


@pytest.mark.parametrize("content", [None, b"{% for %}", b"\xff"])
def test_an_invalid_template_is_refused(content: bytes | None, copied: Path) -> None:
    template = copied.parent / "own.jinja"
    if content is not None:
        template.write_bytes(content)
    with pytest.raises(UsageError, match="--chat-template"):
        load(copied, loading=LoadingSettings(chat_template=template))


def test_a_folder_of_checkpoints_stands_for_the_last(saved: Path, tmp_path: Path) -> None:
    for step in (9, 100, 20):
        shutil.copytree(saved, tmp_path / f"out/checkpoint-{step}")
    loaded = load(tmp_path / "out")
    assert (loaded.identity["name"], loaded.training_step) == ("out/checkpoint-100", 100)
    assert load(saved).training_step is None


def test_a_revision_of_a_folder_is_refused(copied: Path) -> None:
    with pytest.raises(UsageError, match="--model-revision v1"):
        load(copied, loading=LoadingSettings(revision="v1"))


@pytest.mark.parametrize("content", [None, "{broken", '{"x": 1}'])
def test_a_checkpoint_without_a_tokenizer_is_refused(content: str | None, copied: Path) -> None:
    if content is None:
        (copied / "tokenizer.json").unlink()
        (copied / "tokenizer_config.json").unlink()
        assert f"{copied}: no tokenizer files" in refusal(copied)
        return
    (copied / "tokenizer.json").write_text(content)
    assert f"{copied}: the tokenizer cannot be loaded: " in refusal(copied)


def test_the_identity_is_the_hash_of_every_file_that_counts(copied: Path) -> None:
    (copied / "README.md").write_text("changes nothing")
    identity = load(copied).identity
    counted = ("*.json", "*.jinja", "*.safetensors")
    paths = [path for pattern in counted for path in copied.glob(pattern)]
    assert identity["name"] == "policy"
    assert identity["files"] == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= set(identity["files"])
    json.dumps(identity)


def scale_one_weight(folder: Path) -> None:
    change_weights(folder, lambda weights: weights[WEIGHT][0, 0].mul_(1.5))


def change_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))


def change_template(folder: Path) -> None:
    with (folder / "chat_template.jinja").open("a") as file:
        file.write("{# changed #}")


def change_tokenizer(folder: Path) -> None:
    tokenizer = small_tokenizer()
    tokenizer.add_tokens(["new"])
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize("change", [scale_one_weight, change_config, change_template, change_tokenizer])
def test_the_identity_changes_with_what_is_measured(copied: Path, change: Callable[[Path], None]) -> None:
    before = load(copied).identity
    assert load(copied).identity == before
    change(copied)
    assert load(copied).identity != before


def test_the_identity_changes_with_the_merges_of_an_old_tokenizer(copied: Path) -> None:
    """Checkpoints without a tokenizer.json keep their merges in merges.txt."""
    merges = json.loads((copied / "tokenizer.json").read_text())["model"]["merges"]
    vocabulary = small_tokenizer().get_vocab()
    (copied / "tokenizer.json").unlink()
    (copied / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|im_end|>"}')
    (copied / "vocab.json").write_text(json.dumps(vocabulary))
    lines = [" ".join(merge) for merge in merges]
    (copied / "merges.txt").write_text("\n".join(["#version: 0.2", *lines]) + "\n")
    before = load(copied)
    (copied / "merges.txt").write_text("#version: 0.2\n" + lines[0] + "\n")
    after = load(copied)
    assert before.tokenizer("The sky")["input_ids"] != after.tokenizer("The sky")["input_ids"]
    assert before.identity != after.identity


LIMITED = dict.fromkeys(("gpt2", "opt", "gpt-j", "gpt-neo", "gpt-bigcode", "codegen", "mpt"), 128)
"""Families of tiny_models with a table of positions. The others compute their positions."""


@pytest.mark.parametrize("family", FAMILIES)
def test_the_position_limit_is_where_the_model_breaks(family: str, tmp_path: Path) -> None:
    model = tiny_model(family, torch.float32)
    checkpoint = load(save(model, tmp_path / family))
    assert checkpoint.position_limit == LIMITED.get(family)
    longer = torch.ones(1, 129, dtype=torch.long)
    with torch.no_grad():
        if family in LIMITED:
            with pytest.raises((IndexError, RuntimeError)):
                checkpoint.model(input_ids=longer)
            longer = longer[:, :128]
        assert torch.isfinite(checkpoint.model(input_ids=longer).logits).all()


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny_llama(small_tokenizer())


def plain(model: PreTrainedModel) -> Checkpoint:
    return Checkpoint(model, small_tokenizer(), {}, None)


@pytest.mark.parametrize(
    ("pattern", "num_found"),
    [
        ("all", 21),
        (r"layers\.0\.", 9),
        (r"^model\.norm", 1),
        (r"(up|down)_proj", 4),
        ("", 21),
        ("a", 19),
        (r"embed|lm", 2),
    ],
)
def test_parameters_are_found_anywhere_in_their_name(model: PreTrainedModel, pattern: str, num_found: int) -> None:
    named = dict(model.named_parameters())
    found = select_parameters(plain(model), pattern)
    assert len(found) == num_found
    assert all(parameter is named[name] for name, parameter in found.items())
    assert list(found) == [name for name in named if name in found]


def test_an_expression_that_finds_nothing_says_what_there_is(model: PreTrainedModel) -> None:
    with pytest.raises(UsageError) as caught:
        select_parameters(plain(model), "h.0.attn")
    assert caught.value.found == "--parameters 'h.0.attn' matches none of 21 parameters"
    assert "model.embed_tokens.weight" in caught.value.expected
    assert caught.value.exit_code is ExitCode.USAGE


@pytest.mark.parametrize("pattern", ["(", "*", "[a"])
def test_a_broken_expression_is_refused(model: PreTrainedModel, pattern: str) -> None:
    with pytest.raises(UsageError, match="a regular expression"):
        select_parameters(plain(model), pattern)


def test_the_libraries_are_quiet_inside_only() -> None:
    import transformers

    logging = transformers.utils.logging
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_info()
    logging.enable_progress_bar()
    try:
        with pytest.raises(KeyError), quiet_libraries():  # noqa: PT012
            assert logging.get_verbosity() == logging.ERROR
            assert not logging.is_progress_bar_enabled()
            raise KeyError
        assert logging.get_verbosity() == logging.INFO
        assert logging.is_progress_bar_enabled()
    finally:
        logging.set_verbosity(before[0])
        (logging.enable_progress_bar if before[1] else logging.disable_progress_bar)()


def test_an_empty_name_is_not_the_present_folder(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copied)
    with pytest.raises(ModelError, match="no such folder"):
        load_checkpoint("", "float32", CPU)


def test_a_device_map_loads_the_same_model(saved: Path) -> None:
    plain = load(saved).model
    with quiet_libraries():
        mapped = load_checkpoint(str(saved), "float32", CPU, device_map="auto").model
    for left, right in zip(plain.parameters(), mapped.parameters(), strict=True):
        assert torch.equal(left, right)


def test_offloaded_weights_are_refused(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LlamaForCausalLM, "hf_device_map", {"model": 0, "lm_head": "cpu"}, raising=False)
    assert "parts would be on cpu" in refusal(saved)


def test_an_architecture_of_transformers_needs_no_code_of_the_checkpoint(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "own.Own"}
    (copied / "config.json").write_text(json.dumps(config))
    (copied / "own.py").write_text("raise SystemExit")
    assert type(load(copied).model) is LlamaForCausalLM


@pytest.mark.parametrize("auto_map", ["x", ["x"], {"AutoConfig": 5}])
def test_an_auto_map_may_be_anything(auto_map: Any, copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "auto_map": auto_map, "model_type": "own"}))
    assert str(copied) in refusal(copied)


@pytest.mark.parametrize("name", ["~nobody-of-this-name/x", "x" * 300])
def test_names_that_no_folder_can_have(name: str) -> None:
    assert refusal(name) == f"{name}: no such folder"


@pytest.mark.parametrize("content", ["[]", "{}", "{", '{"weight_map": []}'])
def test_an_unusable_index_is_refused(content: str, copied: Path) -> None:
    (copied / "model.safetensors.index.json").write_text(content)
    assert "model.safetensors.index.json" in refusal(copied)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"vocab_size": 20_000_000}, "vocab_size 20,000,000"),
        ({"hidden_size": 10**6}, "hidden_size 1,000,000"),
        ({"intermediate_size": 2 * 10**6}, "intermediate_size 2,000,000"),
        ({"head_dim": 10**9}, "head_dim 1,000,000,000"),
        ({"num_labels": 10**8}, "num_labels 100,000,000"),
        ({"max_position_embeddings": 10**12}, "max_position_embeddings"),
    ],
)
def test_a_config_with_sizes_that_no_weight_has_is_refused(copied: Path, entry: dict[str, int], words: str) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, **entry}))
    assert words in refusal(copied)


@pytest.mark.parametrize("name", ["weights.bin", "weights.dat"])
def test_an_index_of_safetensors_names_no_pickles(copied: Path, name: str) -> None:
    weights = load_file(copied / "model.safetensors")
    torch.save(weights, copied / name)
    (copied / "model.safetensors").rename(copied / "other.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, name)}
    (copied / "model.safetensors.index.json").write_text(json.dumps(index))
    assert f"lists {name}, which is not a safetensors file" in refusal(copied)


def test_a_folder_that_is_a_link_is_followed_once(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(copied)
    origin = find_origin(str(tmp_path / "link"), LoadingSettings())
    assert origin.folder == copied.resolve()
    assert identity_of(origin)["files"] == identity_of(find_origin(str(copied), LoadingSettings()))["files"]


def test_a_router_without_a_number_has_no_loss(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    entry = {"output_router_logits": True, "router_aux_loss_coef": "x"}
    (copied / "config.json").write_text(json.dumps({**config, **entry}))
    assert "W-ROUTER-LOSS" not in load(copied).warnings
