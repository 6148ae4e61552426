#!/usr/bin/env bash
# Sweep of beta and learning rate over the shared configuration. Arguments override the file.
export HF_HUB_ENABLE_HF_TRANSFER=1

trl dpo --config tulu_base.yaml --num_processes 4 \
  --beta 0.3 --learning_rate=2e-6 \
  --gradient_accumulation_steps 8 \
  --output_dir out/tulu-beta0.3 --run_name tulu-beta0.3
