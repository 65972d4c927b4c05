"""Hugging Face's Trainer with `optim="rmsprop"`: no line changes.

rmsprop run examples/transformers_by_name.py
"""

import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

torch.manual_seed(0)
texts = [{"input_ids": x, "labels": x} for x in torch.randint(0, 50, (16, 8))]
model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=8, n_embd=16, n_layer=1, n_head=2))
with tempfile.TemporaryDirectory() as folder:
    choice = TrainingArguments(folder, optim="rmsprop", max_steps=4, learning_rate=1e-3, report_to=[], use_cpu=True)
    trainer = Trainer(model, choice, train_dataset=texts)
    trainer.train()
result = model.transformer.wte.weight
optimizer = trainer.optimizer
