"""torch.optim.RMSprop, timm's and Stable-Baselines3's class are replaced in the process, and restored."""

from __future__ import annotations

import abc
import copy
import dataclasses
import inspect
import io
import pickle
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from state_dicts import randn
from test_state_sources import OTHERS, rmsprop_tf
from test_torch import step, tensors

import rmsprop.timm
from rmsprop import InputError, Rule, profile
from rmsprop.torch import RMSprop, install, uninstall
from rmsprop.torch.drop_ins import RMSpropTF, RMSpropTFLike
from rmsprop.torch.install import InstalledRMSprop, Original

MODULE: Any = sys.modules["torch.optim.rmsprop"]


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    uninstall()
    assert torch.optim.RMSprop is MODULE.RMSprop is Original


def one_step(optimizer: Any) -> torch.Tensor:
    p: torch.Tensor = optimizer.param_groups[0]["params"][0]
    p.grad = torch.ones_like(p)
    optimizer.step()
    return p.detach()


def test_what_is_replaced_is_said_once_and_restored(capsys: pytest.CaptureFixture[str]) -> None:
    with install():
        assert torch.optim.RMSprop is MODULE.RMSprop is InstalledRMSprop
        with install():  # nothing more to replace, and nothing to restore
            pass
        assert torch.optim.RMSprop is InstalledRMSprop
    assert torch.optim.RMSprop is Original
    assert capsys.readouterr().err == "rmsprop: this package's RMSprop replaces torch.optim.RMSprop\n"
    install()
    install()
    uninstall()
    assert torch.optim.RMSprop is Original
    uninstall()


def test_the_installed_class_is_ours_and_torchs() -> None:
    before = Original([torch.ones(2)])

    class Before(Original):
        pass

    with install():
        made: Any = torch.optim.RMSprop([torch.ones(2)], 0.1, 0.9)

        class After(torch.optim.RMSprop, abc.ABC):
            pass

        for each in (made, After([torch.ones(2)])):
            assert isinstance(each, RMSprop)
            assert isinstance(each, Original)
        assert isinstance(before, torch.optim.RMSprop)
        assert isinstance(Before([torch.ones(2)]), torch.optim.RMSprop)
        assert issubclass(Before, torch.optim.RMSprop)
        assert not isinstance(before, After)
        assert not isinstance(torch.optim.SGD([torch.ones(2)]), torch.optim.RMSprop)
        assert torch.optim.RMSprop.__name__ == "RMSprop"
        assert inspect.signature(torch.optim.RMSprop) == inspect.signature(RMSprop)
        assert made.implementation.startswith("native kernel")
    plain = RMSprop([torch.ones(2)], 0.1, 0.9)
    assert torch.equal(one_step(made), one_step(plain))
    assert repr(made) == repr(plain)


def test_what_a_script_does_not_give_comes_from_the_call() -> None:
    with install(alpha=0.9, nonfinite="skip", eps=1e-3):
        made: Any = torch.optim.RMSprop([torch.ones(2)], 0.1, 0.8, eps=1e-5)
        with install(eps=1e-2):
            assert torch.optim.RMSprop([torch.ones(2)]).param_groups[0]["eps"] == 1e-2
        assert torch.optim.RMSprop([torch.ones(2)]).param_groups[0]["eps"] == 1e-3
    group = made.param_groups[0]
    assert (group["lr"], group["alpha"], group["eps"], group["nonfinite"]) == (0.1, 0.8, 1e-5, "skip")
    with install():
        assert torch.optim.RMSprop([torch.ones(2)]).param_groups[0]["nonfinite"] == "propagate"


def test_calls_end_in_any_order() -> None:
    first, second = install(eps=1e-3), install(eps=1e-2, sb3=False)
    first.uninstall()
    first.uninstall()  # once is enough
    assert torch.optim.RMSprop([torch.ones(2)]).param_groups[0]["eps"] == 1e-2
    second.uninstall()
    assert torch.optim.RMSprop is Original
    with install():
        assert torch.optim.RMSprop([torch.ones(2)]).param_groups[0]["eps"] == 1e-8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rho": 0.9}, "an argument of RMSprop must be one of lr, alpha, .*, got 'rho'; see its docstring"),
        ({"alpha": 2.0}, r"alpha must be a number in \[0, 1\), got 2.0"),
        ({"fused": True, "foreach": True}, "fused must be None or False with foreach=True"),
    ],
)
def test_arguments_are_checked_before_anything_is_replaced(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        install(**arguments)
    assert torch.optim.RMSprop is Original


def test_a_class_kept_after_uninstall_goes_on_and_says_so() -> None:
    with install():
        kept = torch.optim.RMSprop
    with pytest.warns(UserWarning, match="was torch.optim.RMSprop while rmsprop.torch was installed"):
        optimizer = kept([torch.ones(2)])
    one_step(optimizer)


def test_pickles_and_copies() -> None:
    old = Original([torch.ones(2)], lr=0.5, momentum=0.5)
    one_step(old)
    pickled = pickle.dumps(old)
    with install():
        for copied in (copy.deepcopy(old), pickle.loads(pickle.dumps(old))):  # stay what they are
            assert type(copied) is Original
            assert torch.equal(one_step(copied), one_step(copy.deepcopy(old)))
        loaded = pickle.loads(pickled)  # names torch.optim.rmsprop.RMSprop
        assert type(loaded) is InstalledRMSprop
        torch.testing.assert_close(one_step(loaded), one_step(copy.deepcopy(old)))
        made = torch.optim.RMSprop([torch.ones(2)], lr=0.5)
        one_step(made)
        pickled = pickle.dumps(made)
    again = pickle.loads(pickled)  # without it, too
    assert torch.equal(one_step(again), one_step(made))
    assert copy.deepcopy(old).param_groups[0]["lr"] == 0.5
    assert pickle.loads(pickle.dumps(old)).param_groups[0]["lr"] == 0.5


def test_state_dicts_load_with_it_and_without_it() -> None:
    old = Original([torch.ones(2)], lr=0.5, momentum=0.5, centered=True)
    one_step(old)
    with install():
        made: Any = torch.optim.RMSprop([old.param_groups[0]["params"][0].clone()])
        made.load_state_dict(copy.deepcopy(old.state_dict()))
        one_step(made)
    buffer = io.BytesIO()
    torch.save(made.state_dict(), buffer)
    buffer.seek(0)
    back = Original([made.param_groups[0]["params"][0].clone()])
    back.load_state_dict(torch.load(buffer, weights_only=True))
    one_step(old)
    torch.testing.assert_close(one_step(back), one_step(old))


# -- other names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rho": 0.9}, "rho must be omitted, got 0.9; its name here, as in torch, is alpha"),
        ({"decay": 0.9}, "decay must be omitted, got 0.9; its name here, as in torch, is alpha"),
        ({"epsilon": 1e-3}, "epsilon must be omitted, got 0.001; its name here, as in torch, is eps"),
        ({"learning_rate": 1}, "learning_rate must be omitted, got 1; its name here, as in torch, is lr"),
        ({"betas": (0.9, 0.99)}, r"betas must be omitted, got \(0.9, 0.99\); β₂ is alpha; β₁ is momentum with"),
        ({"rate": 1}, "unexpected keyword argument 'rate'"),
    ],
)
@pytest.mark.parametrize("installed", [False, True])
def test_a_name_of_another_library_is_answered_with_ours(
    arguments: dict[str, Any], message: str, installed: bool
) -> None:
    cls: Any = InstalledRMSprop if installed else RMSprop
    with install(), pytest.raises(TypeError, match=message):
        cls([torch.ones(2)], **arguments)


@pytest.mark.parametrize("model", [torch.nn.Linear(2, 1), torch.nn.Sequential(torch.nn.Linear(2, 1))])
def test_a_model_in_place_of_its_parameters_is_said(model: Any) -> None:
    with pytest.raises(TypeError, match=r"params must be tensors or groups, got a \w+; pass model.parameters\(\)"):
        RMSprop(model)


# -- timm and Stable-Baselines3 ---------------------------------------------------------------------------------------


def ours_of(library: str) -> Any:
    return {"timm": RMSpropTF, "sb3": RMSpropTFLike}[library]


@pytest.mark.parametrize("name", OTHERS)
def test_drop_ins_are_their_classes(name: str) -> None:
    library, options = OTHERS[name]
    params, gradients = tensors(torch.float64)
    theirs_params = [p.clone() for p in params]
    with rmsprop_tf(library) as theirs_class:
        theirs = theirs_class(theirs_params, 0.02, **options)
    ours = ours_of(library)(params, 0.02, **options)
    for g in gradients:
        step(theirs, theirs_params, g)
        step(ours, params, g)
    for p, q in zip(params, theirs_params, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("library", ["timm", "sb3"])
def test_drop_ins_have_their_signature_and_more(library: str) -> None:
    with rmsprop_tf(library) as theirs:
        expected = inspect.signature(theirs).parameters
    found = inspect.signature(ours_of(library)).parameters
    same = [(n, each.default) for n, each in expected.items() if n not in ("params", "foreach")]
    assert [(n, found[n].default) for n, _ in same] == same
    assert ours_of(library)([torch.ones(2)], nonfinite="skip", foreach=None).param_groups[0]["nonfinite"] == "skip"
    if library == "timm":
        with pytest.raises(InputError, match="caution must be False, got True; omit it"):
            RMSpropTF([torch.ones(2)], caution=True)


@dataclasses.dataclass(frozen=True)
class Info:
    opt_class: Any
    defaults: Any = None


def test_timms_names_create_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    with rmsprop_tf("timm") as theirs:
        factory = ModuleType("timm.optim._optim_factory")  # timm itself needs torchvision
        cautious, sgd = Info(theirs, {"caution": True}), Info(torch.optim.SGD)
        entries = {"rmsprop": Info(Original), "rmsproptf": Info(theirs), "crmsproptf": cautious, "sgd": sgd}
        registry: Any = type("Registry", (), {})()
        registry._optimizers = dict(entries)
        factory.default_registry = registry  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, factory.__name__, factory)
        module = sys.modules["timm.optim.rmsprop_tf"]
        with install(timm=True):
            assert module.RMSpropTF is RMSpropTF
            assert registry._optimizers == {
                **entries, "rmsprop": Info(InstalledRMSprop), "rmsproptf": Info(RMSpropTF)
            }  # fmt: skip
        assert module.RMSpropTF is theirs
        assert registry._optimizers == entries


def test_profiles_have_names_in_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    entries: dict[str, Any] = {}
    optim, factory = ModuleType("timm.optim"), ModuleType("timm.optim._optim_factory")
    optim.OptimInfo = lambda name, opt_class, description, **more: (name, opt_class, more)  # type: ignore[attr-defined]
    factory.default_registry = SimpleNamespace(  # type: ignore[attr-defined]
        register=lambda info: entries.update({info[0]: info[1:]}), list_optimizers=lambda: [*entries]
    )
    for module in (ModuleType("timm"), optim, factory):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    names = rmsprop.timm.register()
    assert {"rmsprop-torch", "rmsprop-tf1", "rmsprop-sb3", "rmsprop-graves"} <= set(names) == entries.keys()
    assert not {"rmsprop-adam", "rmsprop-keras-legacy"} & set(names)
    assert rmsprop.timm.register() == names
    for name in names:
        cls, more = entries[name]
        expected = profile(name.removeprefix("rmsprop-"), lr=0.3, momentum=0.5)
        assert cls([torch.ones(2)], **{**more["defaults"], "lr": 0.3, "momentum": 0.5}).rule() == expected
        assert more["has_momentum"]
    monkeypatch.setitem(sys.modules, "timm.optim", None)
    with pytest.raises(ModuleNotFoundError, match=r"^rmsprop.timm needs timm: pip install timm"):
        rmsprop.timm.register()


def test_sb3s_class_is_replaced() -> None:
    with rmsprop_tf("sb3") as theirs:
        module = sys.modules["stable_baselines3.common.sb2_compat.rmsprop_tf_like"]
        with install(sb3=True):
            assert module.RMSpropTFLike is RMSpropTFLike
        assert module.RMSpropTFLike is theirs


def test_a_library_that_is_missing_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    with pytest.raises(ModuleNotFoundError, match="needs stable_baselines3 for this: pip install stable-baselines3"):
        install(sb3=True)
    assert torch.optim.RMSprop is Original


# -- a class and keywords ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [Rule(), profile("tf1", lr=0.1), profile("nadam"), Rule(decay=0.9, maximize=True)])
def test_the_keywords_of_a_rule_make_its_optimizer(rule: Rule) -> None:
    assert RMSprop([torch.ones(2)], lr=rule.lr, **rule.torch_kwargs()).rule() == rule
    assert "lr" not in rule.torch_kwargs()
    assert Rule(lr=3.0).torch_kwargs() == {}


def test_compiled_steps_of_the_installed_class() -> None:
    with install():
        made: Any = torch.optim.RMSprop([randn(5)])
    made.param_groups[0]["params"][0].grad = torch.ones(5)
    plain = RMSprop([made.param_groups[0]["params"][0].clone()])
    plain.param_groups[0]["params"][0].grad = torch.ones(5)
    compiled: Any = torch.compile(made.step, fullgraph=True, backend="eager")
    compiled()
    plain.step()
    assert torch.equal(made.param_groups[0]["params"][0], plain.param_groups[0]["params"][0])
