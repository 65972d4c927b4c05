"""Hugging Face's Trainer with a class and its arguments."""

import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from rmsprop.torch import RMSprop  # instead of: from torch.optim import RMSprop

torch.manual_seed(0)
texts = [{"input_ids": x, "labels": x} for x in torch.randint(0, 50, (16, 8))]
model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=8, n_embd=16, n_layer=1, n_head=2))
with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(folder, max_steps=4, report_to=[], use_cpu=True)
    choice = (RMSprop, {"lr": 1e-3, "alpha": 0.95})
    trainer = Trainer(model, arguments, train_dataset=texts, optimizer_cls_and_kwargs=choice)
    trainer.train()
result = model.transformer.wte.weight
optimizer = trainer.optimizer
