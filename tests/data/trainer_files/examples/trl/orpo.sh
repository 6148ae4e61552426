#!/bin/bash
#SBATCH --gres=gpu:4
#SBATCH --time=12:00:00
module load cuda/12.4
source .venv/bin/activate

# ORPO needs no reference model and no SFT before it
python -m accelerate.commands.launch \
    --num_processes=4 \
    --num_machines=1 \
    examples/scripts/orpo.py \
    --dataset_name=trl-lib/ultrafeedback_binarized \
    --model_name_or_path=meta-llama/Llama-3.2-1B \
    --per_device_train_batch_size 4 \
    --max_steps 1000 \
    --learning_rate 8e-6 \
    --lr_scheduler_type inverse_sqrt \
    --warmup_steps 100 \
    --beta 0.2 \
    --max_length 1536 \
    --logging_steps 10 \
    --eval_strategy steps \
    --eval_steps 500 \
    --output_dir="llama3.2-1b-orpo" \
    --optim adamw_8bit \
    --report_to none \
    --bf16 \
    --no_remove_unused_columns
