"""Which trainer a file belongs to, what other files look like, and commands in scripts."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from entangle_cli.data.trainer_files import trl
from entangle_cli.data.trainer_files.keys import Keys
from entangle_cli.data.trainer_files.launch_command import arguments_by_name, find_launch_command
from entangle_cli.data.trainer_files.reading import read_trainer_file
from entangle_cli.errors import UsageError
from entangle_cli.records.settings import LossSettings


def written(folder: Path, text: str, name: str = "train.yaml") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "an empty file"),
        ("- a\n- b\n", "a list"),
        ("a: [1\n", "line 2"),
        ("zero_optimization: {stage: 2}\ntrain_micro_batch_size_per_gpu: auto\n", "a DeepSpeed configuration"),
        ("compute_environment: LOCAL_MACHINE\ndistributed_type: FSDP\nnum_processes: 8\n", "an accelerate config"),
        ("architectures: [LlamaForCausalLM]\nmodel_type: llama\n", "a model's config.json"),
        ("peft_type: LORA\nbase_model_name_or_path: base\nlora_alpha: 16\n", "adapter_config.json"),
        ("log_history: []\nglobal_step: 5\n", "--trainer-log"),
        ("colour: red\nshape: round\n", "no known trainer has these keys: colour shape"),
        ("base_model: m\nsequence_len: 8\n", "rl: None: not a preference training"),
        ("stage: sft\nfinetuning_type: lora\n", "stage: sft: not a preference training"),
        ("model_name_or_path: m\ndataset_name: d\npacking: true\n", "packing belongs to TRL's SFT"),
        ("model_name_or_path: m\nbeta: 0.0\nnum_generations: 8\n", "num_generations belongs to TRL's GRPO"),
        ("on: push\njobs: {}\n", "a GitHub workflow"),
    ],
)
def test_another_file_says_what_it_looks_like(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError) as raised:
        read_trainer_file(written(tmp_path, text))
    assert words in raised.value.found
    assert "TRL, axolotl or LLaMA-Factory" in raised.value.expected or "as one of" in raised.value.expected


def test_a_missing_file_and_a_binary_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_trainer_file(tmp_path / "nowhere.yaml")
    (tmp_path / "weights.bin").write_bytes(b"\x80\x02\xff\xfe")
    with pytest.raises(UsageError, match="not a text"):
        read_trainer_file(tmp_path / "weights.bin")


def test_no_tag_of_a_yaml_makes_an_object(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        read_trainer_file(written(tmp_path, "beta: !!python/object/apply:os.system ['true']\nloss_type: ipo\n"))


def test_the_environment_of_a_file_is_not_set(tmp_path: Path) -> None:
    read_trainer_file(written(tmp_path, "env:\n  ENTANGLE_TEST_ENV: x\nmodel_name_or_path: m\nbeta: 0.3\n"))
    assert "ENTANGLE_TEST_ENV" not in os.environ


def test_a_number_that_yaml_reads_as_text_is_a_number(tmp_path: Path) -> None:
    setup = read_trainer_file(written(tmp_path, "model_name_or_path: m\ndataset_name: d\nlearning_rate: 5e-7\n"))
    assert setup.learning_rate == 5e-7


def test_a_value_of_another_type_names_its_key(tmp_path: Path) -> None:
    file = written(tmp_path, "base_model: m\nrl: dpo\nrl_beta: small\n")
    with pytest.raises(UsageError, match="rl_beta: 'small'"):
        read_trainer_file(file)


@pytest.mark.parametrize(
    "text",
    [
        "model_name_or_path: m\nbeta: 0.1\nloss_weights: [heavy]\n",
        "model_name_or_path: m\nbeta: 0.1\ndataset_mixture: {datasets: [{id: d, weight: half}]}\n",
        "base_model: m\nrl: dpo\ntrl: {beta: small}\n",
    ],
)
def test_numbers_inside_lists_and_objects_are_checked(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="number"):
        read_trainer_file(written(tmp_path, text))


def test_a_share_of_a_data_set_is_named(tmp_path: Path) -> None:
    text = "model_name_or_path: m\nbeta: 0.1\ndatasets: [{path: d, fraction: '0.5'}, {name: x}, 3]\n"
    setup = read_trainer_file(written(tmp_path, text))
    assert [one.name for one in setup.data] == ["d"]
    reasons = [remark.reason for remark in setup.remarks]
    assert any("fraction 0.5 is not applied" in reason for reason in reasons)
    assert sum("without path" in reason for reason in reasons) == 2


def test_keys_that_yaml_does_not_read_as_texts_do_no_harm(tmp_path: Path) -> None:
    setup = read_trainer_file(written(tmp_path, "model_name_or_path: m\nbeta: 0.1\non: 3\n7: 8\n"))
    assert setup.model == "m"


def test_a_script_without_a_training_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no command that starts dpo"):
        read_trainer_file(written(tmp_path, "trl sft --model m\n", "train.sh"))


def test_one_loss_with_a_weight_keeps_its_direction(tmp_path: Path) -> None:
    text = "model_name_or_path: m\nloss_type: [ipo]\nloss_weights: [2.0]\n"
    setup = read_trainer_file(written(tmp_path, text))
    assert setup.loss == LossSettings("ipo", 0.1)
    assert [remark.key for remark in setup.remarks] == ["loss_weights"]


def test_beta_0_is_kept_as_it_is(tmp_path: Path) -> None:
    setup = read_trainer_file(written(tmp_path, "stage: dpo\nfinetuning_type: full\npref_beta: 0\n"))
    assert setup.loss == LossSettings("sigmoid", 0.0)


def test_a_key_that_nobody_reads_is_named(tmp_path: Path) -> None:
    setup = read_trainer_file(written(tmp_path, "base_model: m\nrl: dpo\nlora_ranks: 8\nlogging_steps: 3\n"))
    assert setup.unread == ("lora_ranks",)


def test_what_trl_does_not_know_is_named(tmp_path: Path) -> None:
    setup = read_trainer_file(written(tmp_path, "model_name_or_path: m\nbeta: 0.1\nbetta: 0.2\n"))
    assert setup.unknown == ("betta",)


def test_what_trl_refuses_is_said_and_read_all_the_same(tmp_path: Path) -> None:
    file = written(tmp_path, "python trl/scripts/dpo.py --model_name_or_path m --beta 0.3 --bf16\n", "train.sh")
    setup = read_trainer_file(file)
    assert setup.refused is not None
    assert "--bf16" in setup.refused
    assert (setup.model, setup.loss, setup.autocast) == ("m", LossSettings("sigmoid", 0.3), "bfloat16")


def test_a_missing_description_of_data_is_a_problem_of_the_data_alone(tmp_path: Path) -> None:
    setup = read_trainer_file(
        written(tmp_path, "stage: dpo\nfinetuning_type: full\ndataset: mine\ndataset_dir: nowhere\n")
    )
    assert setup.data == ()
    assert setup.data_problem is not None
    assert "dataset_info.json" in setup.data_problem


def test_a_data_set_that_the_description_lacks_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps({"other": {"file_name": "other.json"}}))
    setup = read_trainer_file(written(tmp_path, "stage: dpo\nfinetuning_type: full\ndataset: mine\n"))
    assert setup.data_problem is not None
    assert "does not describe it" in setup.data_problem


@pytest.mark.parametrize(
    ("text", "method", "num_processes"),
    [
        ("accelerate launch --num_processes 4 --num_machines 2 scripts/dpo.py --beta 0.2", "dpo", 4),
        ("torchrun --nproc_per_node=2 --nnodes 3 run_orpo.py --beta 0.2", "orpo", 6),
        ("CUDA_VISIBLE_DEVICES=0 python examples/scripts/cpo.py --loss_type simpo", "cpo", 1),
        ("trl dpo --config dpo.yaml --num_processes 2", "dpo", 2),
        ("set -e\n# python dpo.py\npip install trl\npython \\\n  my_dpo_v2.py \\\n  --beta 0.2", "dpo", 1),
        ("deepspeed --num_gpus 4 train/dpo_llama.py --beta 0.2", "dpo", 4),
        ("echo dpo\npython train.py", None, 1),
    ],
)
def test_a_launch_command_is_found(text: str, method: str | None, num_processes: int) -> None:
    command = find_launch_command(text)
    assert (None if command is None else command.method) == method
    assert command is None or command.num_processes == num_processes


def test_arguments_are_split_as_argparse_splits_them() -> None:
    words = ["--beta", "0.1", "--loss_type", "sigmoid", "sft", "--use_peft", "--learning-rate=-1", "--bf16", "true"]
    assert arguments_by_name(words) == {
        "beta": "0.1", "loss_type": ["sigmoid", "sft"], "use_peft": True, "learning_rate": "-1", "bf16": "true",
    }  # fmt: skip


def test_keys_that_are_off_are_not_remarked_on() -> None:
    keys = Keys("f", {"a": None, "b": False, "c": 0, "d": 0.5})
    keys.remark_given(dict.fromkeys("abcd", "reason"))
    assert [remark.key for remark in keys.remarks] == ["d"]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("beta: 2.0\ngamma_beta_ratio: 0.5\n", {"gamma": 1.0, "nll_weight": 0.0}),
        ("beta: 10\ngamma_beta_ratio: 0.3\nsft_weight: 0.1\n", {"gamma": 3.0, "nll_weight": 0.1}),
        ("beta: 2.0\nloss_type: simpo\nsimpo_gamma: 1.5\ncpo_alpha: 0.0\n", {"gamma": 1.5, "nll_weight": 0.0}),
        ("beta: 2.0\nloss_type: simpo\n", {"gamma": 0.5, "nll_weight": 1.0}),
    ],
)
def test_simpo_by_its_own_script_and_by_trl(tmp_path: Path, text: str, numbers: dict[str, float]) -> None:
    """SimPO's script subtracts gamma_beta_ratio from the difference of mean log-probs; TRL subtracts gamma / beta."""
    file = tmp_path / "train.yaml"
    file.write_text(f"model_name_or_path: m\ndataset_mixer: {{d: 1.0}}\n{text}", encoding="utf-8")
    loss = read_trainer_file(file).loss
    assert loss is not None
    assert loss.name == "simpo"
    assert loss.options == pytest.approx(numbers)


@pytest.mark.parametrize(
    ("script", "model", "beta"),
    [
        ("MODEL=org/m\nBETA=0.3\npython dpo.py --model_name_or_path $MODEL --beta=${BETA}\n", "org/m", 0.3),
        ("export MODEL='org/m'\npython dpo.py --model_name_or_path $MODEL/sft --beta ${B:-0.2}\n", "org/m/sft", 0.2),
        ("A=1 B=2\npython dpo.py --model_name_or_path m --beta 0.3 && echo done\n", "m", 0.3),
        ("python dpo.py --model_name_or_path m --beta 0.3 2>&1 | tee log.txt\n", "m", 0.3),
        ("cd work; python dpo.py --model_name_or_path m --beta 0.3 > log.txt\n", "m", 0.3),
        ("CUDA_VISIBLE_DEVICES=0 python dpo.py --model_name_or_path m --beta 0.3 &\n", "m", 0.3),
    ],
)
@pytest.mark.parametrize("has_trl", [True, False])
def test_variables_and_what_follows_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, model: str, beta: float, has_trl: bool
) -> None:
    if not has_trl:
        monkeypatch.setattr(trl, "parsed_by_trl", lambda *_: None)
    file = tmp_path / "train.sh"
    file.write_text(script, encoding="utf-8")
    setup = read_trainer_file(file)
    assert setup.loss is not None
    assert (setup.model, setup.loss.beta, setup.refused) == (model, beta, None)
    assert set(setup.given) == {"model_name_or_path", "beta"}


@pytest.mark.parametrize("words", ["--model_name_or_path $1 --beta 0.1", "--model_name_or_path m --beta $BETA"])
def test_variables_that_the_script_does_not_set(tmp_path: Path, words: str) -> None:
    file = tmp_path / "train.sh"
    file.write_text(f"python dpo.py {words}\n", encoding="utf-8")
    with pytest.raises(UsageError, match="write its value there; entangle does not run the script"):
        read_trainer_file(file)
