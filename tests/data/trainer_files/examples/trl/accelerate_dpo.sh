#!/bin/bash
# 8 GPUs, LoRA, length-normalised DPO
set -euo pipefail
export WANDB_PROJECT=dpo-norm
export TOKENIZERS_PARALLELISM=false

accelerate launch --multi_gpu --num_processes 8 --mixed_precision bf16 \
    trl/scripts/dpo.py \
    --model_name_or_path Qwen/Qwen3-1.7B \
    --dtype bfloat16 \
    --dataset_name trl-lib/ultrafeedback_binarized \
    --dataset_train_split "train[:50%]" \
    --loss_type sigmoid_norm \
    --beta 5.0 \
    --max_length 2048 \
    --learning_rate 2.0e-5 \
    --lr_scheduler_type cosine \
    --warmup_steps 0.1 \
    --num_train_epochs 1 \
    --per_device_train_batch_size 4 \
    --gradient_accumulation_steps 2 \
    --gradient_checkpointing \
    --eval_strategy steps \
    --eval_steps 100 \
    --logging_steps 10 \
    --use_peft \
    --lora_r 32 \
    --lora_alpha 16 \
    --lora_target_modules all-linear \
    --output_dir out/qwen3-dpo-norm \
    --no_remove_unused_columns \
    --report_to wandb
