"""Published trainings by name: the rule, its schedule, clipping and weight averaging, with sources.

`recipe("impala-atari")` returns a `Recipe`. `.explain()` describes it; `.torch(model, ...)` and `.optax(...)` build the
optimizer. Every number was read in the sources that the recipe names. A value that no source states is open
(`Recipe.open`): the caller must give it. The notes say which numbers come from released code and not from the paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from rmsprop.errors import InputError
from rmsprop.recipes.clip import Clip
from rmsprop.recipes.schedules import Constant, Exponential, Linear, WeightEma
from rmsprop.recipes.training_recipe import Recipe

__all__ = ["RECIPES", "recipe"]


def recipe(name: str) -> Recipe:
    """Return a published training by name. `RECIPES` has all of them.

    Examples
    --------
    >>> recipe("efficientnet-v1").learning_rate(0, steps_per_epoch=313)
    0.0
    >>> round(recipe("efficientnet-v1").learning_rate(5 * 313, steps_per_epoch=313), 4)
    0.2409
    """
    if name not in RECIPES:
        raise InputError("recipe", f"one of {', '.join(RECIPES)}", name, "rmsprop.recipes.RECIPES has them all")
    return RECIPES[name]


# Sources, notes and values that several recipes share.
_EFFICIENTNET = "tensorflow/tpu: models/official/efficientnet/main.py, utils.py"
_A3C_PORT = "ports take 0.1 (miyosuda/async_deep_reinforce) or 1e-5 (openai/baselines, A2C)"
_SLIM = "tensorflow/models: research/slim/train_image_classifier.py"
_EPS_ONE = "With eps = 1 the denominator stays near 1 while gradients are small: close to SGD with momentum."
_TF_EMA = WeightEma(0.9999)
_WEIGHTS_ONLY = ("norms", "biases")
_L2_CLIPPED = "Where L2 is part of the loss, clipping sees its gradient, too; here it is added after clipping."

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        each.name: each
        for each in (
            # -- recurrent networks
            Recipe(
                "graves-2013", "Generating sequences with LSTM, Graves 2013", "graves", {}, Constant(),
                ("arXiv:1308.0850, eq. 38-45", "chainer/chainer: chainer/optimizers/rmsprop_graves.py"),
                ("The paper clips derivatives inside the network, during the backward pass, and not the gradient of "
                 "the parameters.",),
            ),
            Recipe(
                "char-rnn-2015", "Character language models with LSTM, Karpathy 2015", "torch",
                {"lr": 2e-3, "decay": 0.95}, Exponential(0.97, 1, delay=9, per_epoch=True),
                ("karpathy/char-rnn: train.lua", "torch/optim: rmsprop.lua"),
                ("The rate is multiplied for the first time at the end of the tenth epoch.",
                 "eps 1e-8 is the default of rmsprop.lua.",
                 "An epoch is a pass over the training text in sequences of 50 characters."),
                clip=Clip("value", 5.0), batch_size=50, batch="50 sequences of 50 characters", epochs=50,
            ),
            Recipe(
                "dnc-2016", "Differentiable neural computer, released code, Graves et al. 2016", "tf1",
                {"lr": 1e-4, "eps": 1e-10}, Constant(), ("google-deepmind/dnc: train.py",),
                ("The decay, 0.9, is TensorFlow's default.",),
                clip=Clip("norm", 50.0), batch_size=16,
            ),
            # -- reinforcement learning
            Recipe(
                "dqn-nature", "DQN on Atari, Mnih et al. 2015", "dqn", {}, Constant(),
                ("Nature 518, 529-533 (2015)", "kuz/DeepMind-Atari-Deep-Q-Learner: dqn/NeuralQLearner.lua, run_gpu"),
                ('The paper\'s "gradient momentum 0.95" is the decay of the average gradient: the code has no '
                 "heavy-ball momentum.",
                 "The TD error is clipped to ±1, which is the gradient of a Huber loss; the gradient is not clipped.",
                 "The gradient is the sum over the batch. With the mean, the same eps is 0.01/32², about 1e-5: that of "
                 "dqn-dopamine, whose loss is the mean.",
                 "One update every 4 actions, from action 50,000 on, for 50 million actions."),
                batch_size=32,
            ),
            Recipe(
                "dqn-dopamine", "DQN on Atari, Dopamine (TensorFlow) 2018", "tf1",
                {"lr": 2.5e-4, "decay": 0.95, "eps": 1e-5, "centered": True}, Constant(),
                ("google/dopamine: dopamine/agents/dqn/configs/dqn_nature.gin, dopamine/agents/dqn/dqn_agent.py",),
                ("Unlike dqn-nature: eps 1e-5 in place of 0.01, and the average starts at 1, as TensorFlow's does.",
                 "Huber loss; the gradient is not clipped.",
                 "Dopamine's JAX agents use optax, whose average starts at 0."),
                batch_size=32,
            ),
            Recipe(
                "dqn-minatar", "DQN on MinAtar, Young and Tian 2019", "torch",
                {"lr": 2.5e-4, "decay": 0.95, "eps": 0.01, "centered": True}, Constant(),
                ("kenjyoung/MinAtar: examples/dqn.py, pull request 37",),
                ("The code of the paper defines GRAD_MOMENTUM = 0.95 and leaves it unused, as dqn-nature has no "
                 "heavy-ball momentum; a change of November 2024 passes it to torch.optim.RMSprop as one.",
                 "eps stands outside the root: the smallest denominator is 0.01, and 0.1 in dqn-nature.",
                 "Huber loss; the gradient is not clipped."),
                batch_size=32,
            ),
            Recipe(
                "a3c-2016", "A3C on Atari, Mnih et al. 2016", "tf1", {"decay": 0.99}, Linear(),
                ("arXiv:1602.01783, section 5 and supplement", "miyosuda/async_deep_reinforce: constants.py, "
                 "rmsprop_applier.py (a port)"),
                ("Square average shared by 16 threads; updates of up to 5 steps each.",
                 "The port clips the norm of every tensor's gradient, each by itself, to 40; nothing is clipped here."),
                open=MappingProxyType({
                    "lr": "the paper draws it from LogUniform(1e-4, 1e-2); ports take 7e-4",
                    "eps": f"the paper does not state it; {_A3C_PORT}",
                    "initial_square_avg": "the paper does not state it; 1 in the port (TensorFlow), 0 in PyTorch",
                }),
                batch="up to 5 steps in each of 16 threads",
            ),
            Recipe(
                "a2c-baselines", "A2C on Atari, OpenAI Baselines 2017", "tf1",
                {"lr": 7e-4, "decay": 0.99, "eps": 1e-5}, Linear(),
                ("openai/baselines: baselines/a2c/a2c.py",),
                ("total_steps is 80e6 environment steps (the default) divided by 5 times the number of environments.",
                 "Baselines advances its schedule once for every sample before an update, so that its rate is that of "
                 "almost one update later."),
                clip=Clip("norm", 0.5), batch="5 steps in each environment",
            ),
            Recipe(
                "a2c-sb3", "A2C, Stable-Baselines3", "torch", {"lr": 7e-4, "decay": 0.99, "eps": 1e-5}, Constant(),
                ("DLR-RM/stable-baselines3: stable_baselines3/a2c/a2c.py (2.9.2)",),
                ("eps stands outside the root: the smallest denominator is 1e-5, and 3.2e-3 in a2c-baselines. "
                 "RMSpropTFLike (profile sb3) restores the latter.",),
                clip=Clip("norm", 0.5), batch="5 steps in each environment",
            ),
            Recipe(
                "impala-atari", "IMPALA on Atari, Espeholt et al. 2018", "tf1",
                {"lr": 6e-4, "decay": 0.99, "eps": 0.01}, Linear(),
                ("arXiv:1802.01561, hyperparameters of the Atari experiments (again in arXiv:1812.07069)",
                 "google-deepmind/scalable_agent: experiment.py (decay)"),
                ("The decay comes from the released code; the table has momentum 0, eps 0.01, the rate and clipping.",
                 "eps stands inside the root, as in TensorFlow: the smallest denominator is 0.1, and 0.01 in "
                 "torchbeast.",
                 "A step takes 32 · 20 · 4 = 2560 frames (4: repeated actions), 200 million frames 78,125 steps."),
                clip=Clip("norm", 40.0), batch_size=32, batch="32 unrolls of 20 steps",
            ),
            Recipe(
                "impala-dmlab", "IMPALA on DeepMind Lab, released code, 2018", "tf1",
                {"lr": 4.8e-4, "decay": 0.99, "eps": 0.1}, Linear(),
                ("google-deepmind/scalable_agent: experiment.py (defaults)",),
                ("total_steps is 1e9 frames (the default) divided by 2 · 100 · 4 frames of a step (4: repeated "
                 "actions).",
                 "The code has no clipping."),
                batch_size=2, batch="2 unrolls of 100 steps",
            ),
            Recipe(
                "torchbeast", "IMPALA on Atari, TorchBeast (MonoBeast) 2019", "torch",
                {"lr": 4.8e-4, "decay": 0.99, "eps": 0.01}, Linear(),
                ("facebookresearch/torchbeast: torchbeast/monobeast.py (defaults)",),
                ("eps stands outside the root and the average starts at 0: not the rule of impala-atari, whose "
                 "smallest denominator is 0.1.",
                 "total_steps is the number of environment steps divided by 8 · 80."),
                clip=Clip("norm", 40.0), batch_size=8, batch="8 unrolls of 80 steps",
            ),
            Recipe(
                "qmix-pymarl", "QMIX on StarCraft, PyMARL 2019", "torch",
                {"lr": 5e-4, "decay": 0.99, "eps": 1e-5}, Constant(),
                ("oxwhirl/pymarl: src/config/default.yaml, src/learners/q_learner.py",), (),
                clip=Clip("norm", 10.0), batch_size=32, batch="32 episodes",
            ),
            # -- generative adversarial networks
            Recipe(
                "wgan-2017", "Wasserstein GAN, Arjovsky et al. 2017", "torch", {"lr": 5e-5}, Constant(),
                ("arXiv:1701.07875, algorithm 1", "martinarjovsky/WassersteinGAN: main.py"),
                ("Critic and generator each have such an optimizer; only the critic's weights are clamped.",
                 "5 steps of the critic for each of the generator; 100 for the first 25 and every 500th.",
                 "decay 0.99 and eps 1e-8 are PyTorch's defaults."),
                weight_clamp=0.01, batch_size=64,
            ),
            # -- image classification
            Recipe(
                "slim-default", "TensorFlow-Slim's image classification script, 2016", "tf1",
                {"lr": 0.01, "momentum": 0.9, "eps": 1.0, "weight_decay": 4e-5}, Exponential(0.94, 2, whole=True),
                (_SLIM,), (_EPS_ONE, "What weight decay leaves out is up to each network; this is the usual choice."),
                batch_size=32, not_decayed=_WEIGHTS_ONLY,
            ),
            Recipe(
                "inception-v3", "Inception-v3 on ImageNet, Szegedy et al. 2015", "tf1",
                {"lr": 0.045, "momentum": 0.9, "eps": 1.0, "weight_decay": 4e-5}, Exponential(0.94, 2, whole=True),
                ("arXiv:1512.00567, section 8",
                 "tensorflow/models: inception/inception/inception_distributed_train.py, inception_model.py"),
                (_EPS_ONE,
                 "From the paper: decay, eps, rate, clipping with threshold 2.0 (taken as that of the global norm), "
                 "batch and epochs. From the code, which does not clip: momentum, weight decay, the average's decay.",
                 _L2_CLIPPED),
                clip=Clip("norm", 2.0), weight_ema=_TF_EMA, batch_size=32, batch="32 on each of 50 replicas",
                epochs=100, not_decayed=_WEIGHTS_ONLY,
            ),
            Recipe(
                "inception-v4", "Inception-v4 and Inception-ResNet-v2 on ImageNet, Szegedy et al. 2016", "tf1",
                {"lr": 0.045, "momentum": 0.9, "eps": 1.0, "weight_decay": 4e-5}, Exponential(0.94, 2),
                ("arXiv:1602.07261, section 4", "tensorflow/tpu: models/experimental/inception/inception_v4.py"),
                (_EPS_ONE,
                 "From the paper: decay, eps and rate, 20 replicas. From the code, which has another rate and a "
                 "warm-up: momentum and weight decay.",
                 "The paper evaluates a running average of the weights without stating its decay, and does not state "
                 "the batch size; its later version (AAAI 2017) found clipping useful, without a threshold."),
                batch="on each of 20 replicas", not_decayed=_WEIGHTS_ONLY,
            ),
            Recipe(
                "mobilenet-v2", "MobileNetV2 on ImageNet, Sandler et al. 2018", "tf1",
                {"lr": 0.045, "momentum": 0.9, "eps": 1.0, "weight_decay": 4e-5}, Exponential(0.98, 1, whole=True),
                ("arXiv:1801.04381, section 6.1", f"{_SLIM}, research/slim/nets/mobilenet/README.md, mobilenet.py"),
                (_EPS_ONE,
                 "From the paper: decay, momentum, weight decay, rate and batch. From the code: eps, the average, and "
                 "that weight decay leaves out depthwise convolutions.",
                 "The README's own run multiplies the rate every 2.5 epochs."),
                weight_ema=_TF_EMA, batch_size=96, batch="96 on each of 16 asynchronous workers",
                not_decayed=("norms", "biases", "depthwise"),
            ),
            Recipe(
                "mobilenet-v3", "MobileNetV3 on ImageNet, Howard et al. 2019", "tf1",
                {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-5}, Exponential(0.99, 3),
                ("arXiv:1905.02244, section 6.1.1",
                 "tensorflow/models: research/slim/nets/mobilenet/mobilenet.py (weight decay)"),
                ('The paper\'s "decay rate of 0.01 every 3 epochs" is ambiguous; × 0.99 is the reading here.',
                 "decay 0.9 is TensorFlow's default; the form of the average and what weight decay leaves out are "
                 "those of slim. The paper does not state the epochs."),
                open=MappingProxyType({
                    "eps": "the paper does not state it; slim's script takes 1.0, EfficientNet and timm 1e-3, "
                    "TensorFlow's default is 1e-10",
                }),
                weight_ema=_TF_EMA, batch_size=4096, not_decayed=("norms", "biases", "depthwise"),
            ),
            Recipe(
                "mnasnet", "MnasNet on ImageNet, Tan et al. 2018", "tf1",
                {"lr": 0.256, "momentum": 0.9, "eps": 1e-3, "weight_decay": 1e-5},
                Exponential(0.97, 2.4, warmup_epochs=5),
                ("arXiv:1807.11626, section 5", "tensorflow/tpu: models/official/mnasnet/mnasnet_main.py, "
                 "mnasnet_utils.py"),
                ("From the code: eps, the average, epochs, 0.016 · B/256 for the rate; its batch size is 1024.",),
                weight_ema=_TF_EMA, batch_size=4096, rate_follows_batch=True, epochs=350, not_decayed=("norms",),
            ),
            Recipe(
                "efficientnet-v1", "EfficientNet on ImageNet, Tan and Le 2019", "tf1",
                {"lr": 0.256, "momentum": 0.9, "eps": 1e-3, "weight_decay": 1e-5},
                Exponential(0.97, 2.4, warmup_epochs=5),
                ("arXiv:1905.11946, section 5.2", _EFFICIENTNET),
                ("From the code: eps, warm-up, the average, epochs, 0.016 · B/256 for the rate, which makes the "
                 "paper's 0.256 at 4096; its own batch size is 2048, with 0.128.",
                 "The first step of the warm-up has rate 0; it changes the square average all the same."),
                weight_ema=_TF_EMA, batch_size=4096, rate_follows_batch=True, epochs=350, not_decayed=("norms",),
            ),
            Recipe(
                "efficientnet-v2", "EfficientNetV2 on ImageNet, Tan and Le 2021", "tf1",
                {"lr": 0.256, "momentum": 0.9, "eps": 1e-3, "weight_decay": 1e-5},
                Exponential(0.97, 2.4, warmup_epochs=5),
                ("arXiv:2104.00298", "google/automl: efficientnetv2/hparams.py, utils.py, main.py"),
                ("Numbers are those of the code: rate 0.016 · B/256, no clipping (gclip 0).",
                 "The size of the images grows during the run (progressive learning); the rate does not depend on it."),
                weight_ema=_TF_EMA, batch_size=4096, rate_follows_batch=True, epochs=350, not_decayed=_WEIGHTS_ONLY,
            ),
            Recipe(
                "amoebanet-tpu", "AmoebaNet-D on ImageNet, Cloud TPU script as it runs, 2018", "tf1",
                {"lr": 0.64, "momentum": 0.9, "eps": 1.0, "weight_decay": 4e-5},
                Exponential(0.9, 1, warmup_epochs=3, least=1e-4),
                ("tensorflow/tpu: models/official/amoeba_net/amoeba_net.py, amoeba_net_model.py, model_builder.py",),
                (_EPS_ONE, "The script's flags override the model's own defaults, which are amoebanet-defaults.",
                 "Because the rate is never below 1e-4 of its peak, the first step of the warm-up is not 0."),
                weight_ema=_TF_EMA, batch_size=256, epochs=48, not_decayed=_WEIGHTS_ONLY,
            ),
            Recipe(
                "amoebanet-defaults", "AmoebaNet on ImageNet, defaults of the Cloud TPU model, 2018", "tf1",
                {"lr": 0.015, "momentum": 0.9, "eps": 1.0, "weight_decay": 4e-5},
                Exponential(0.97, 2.4, warmup_epochs=3, least=1e-4),
                ("tensorflow/tpu: models/official/amoeba_net/amoeba_net_model.py, model_builder.py",),
                (_EPS_ONE, "The script that comes with it runs amoebanet-tpu instead.", _L2_CLIPPED),
                clip=Clip("norm", 10.0), weight_ema=_TF_EMA, batch_size=32, epochs=100, not_decayed=_WEIGHTS_ONLY,
            ),
            Recipe(
                "timm-efficientnet-b0", "EfficientNet-B0 on ImageNet, timm 2020", "timm",
                {"lr": 0.048, "momentum": 0.9, "eps": 1e-3, "weight_decay": 1e-5},
                Exponential(0.97, 2.4, warmup_epochs=3, warmup_rate=1e-6, per_epoch=True),
                ("huggingface/pytorch-image-models: hfdocs/source/training_script.mdx, train.py, "
                 "timm/scheduler/step_lr.py",),
                ("The command leaves the warm-up at the default of train.py: 3 epochs then, 5 in later versions.",),
                weight_ema=WeightEma(0.9999, num_updates=False), batch_size=768, batch="384 on each of 2 GPUs",
                epochs=450, not_decayed=("vectors", "biases"),
            ),
            Recipe(
                "timm-mobilenet-v3-large", "MobileNetV3-Large on ImageNet, timm 2020", "timm",
                {"lr": 0.064, "momentum": 0.9, "eps": 1e-3, "weight_decay": 1e-5},
                Exponential(0.973, 2.4, warmup_epochs=3, warmup_rate=1e-6, per_epoch=True),
                ("huggingface/pytorch-image-models: hfdocs/source/training_script.mdx, train.py, "
                 "timm/scheduler/step_lr.py",),
                ("The original adds random noise to the rate from 42 % to 90 % of the run (--lr-noise 0.42 0.9); "
                 "the schedule here has none.",
                 "The command leaves the warm-up at the default of train.py: 3 epochs then, 5 in later versions."),
                weight_ema=WeightEma(0.9999, num_updates=False), batch_size=1024, batch="512 on each of 2 GPUs",
                epochs=600, not_decayed=("vectors", "biases"),
            ),
            Recipe(
                "torchvision-mobilenet-v3", "MobileNetV3 on ImageNet, torchvision 2021", "torch",
                {"lr": 0.064, "decay": 0.9, "eps": 0.0316, "momentum": 0.9, "weight_decay": 1e-5},
                Exponential(0.973, 2, per_epoch=True),
                ("pytorch/vision: references/classification/README.md, train.py",),
                ("eps 0.0316 = √0.001 outside the root gives the smallest denominator of EfficientNet's 0.001 inside "
                 "it; the average starts at 0, and the rate is outside the momentum buffer.",
                 "The published weights average the last 3 checkpoints that improved accuracy."),
                batch_size=1024, batch="128 on each of 8 GPUs", epochs=600,
            ),
        )
    }
)  # fmt: skip
