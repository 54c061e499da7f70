"""Which settings tell runs apart, and how they are written."""

from typing import Any

import pytest

from deqrun.report.compare.keys import differing_keys, flattened, printable, settings_of, short_texts, value_text

GROUPS = {"model", "solver", "solver@gradient.solver", "dataset"}


def keys(*configs: dict[str, Any]) -> dict[str, str]:
    return {key.name: key.heading for key in differing_keys([settings_of(config) for config in configs], GROUPS)}


def test_nested_settings_have_dotted_keys() -> None:
    assert flattened({"a": {"b": {"c": 1}, "d": {}}}) == {"a.b.c": 1, "a.d": {}}


def test_seed_name_and_what_changes_no_number_are_no_keys() -> None:
    one = {"name": "a", "seed": 0, "threads": 1, "device": "cpu", "tracker": {"mode": "offline"}, "run": "x", "lr": 1}
    other = {"name": "b", "seed": 1, "threads": 2, "device": "cuda", "tracker": {"mode": "online"}, "run": "y", "lr": 2}
    assert keys(one, other) == {"lr": "lr"}


def test_a_choice_stands_for_the_section_that_it_puts_together() -> None:
    """mlp has a width and conv has channels: `model` says both. A width that differs among mlps is a key."""
    mlp = {"choices": {"model": "mlp"}, "model": {"_target_": "MLP", "width": 8}}
    wide = {"choices": {"model": "mlp"}, "model": {"_target_": "MLP", "width": 16}}
    conv = {"choices": {"model": "conv"}, "model": {"_target_": "Conv", "channels": 4}}
    assert keys(mlp, conv) == {"model": "model"}
    assert keys(mlp, conv, wide) == {"model": "model", "model.width": "width"}


def test_a_key_that_repeats_another_is_left_out_and_a_confounder_is_not() -> None:
    """gradient.budget.max_iter follows budget.max_iter; a learning rate that happens to change with it is another."""
    one = {"budget": {"max_iter": 8}, "gradient": {"budget": {"max_iter": 8}}, "optimizer": {"lr": 0.1}}
    other = {"budget": {"max_iter": 16}, "gradient": {"budget": {"max_iter": 16}}, "optimizer": {"lr": 0.2}}
    assert keys(one, other) == {"budget.max_iter": "max_iter", "optimizer.lr": "lr"}
    apart = {"budget": {"max_iter": 16}, "gradient": {"budget": {"max_iter": 8}}, "optimizer": {"lr": 0.1}}
    assert set(keys(one, other, apart)) == {"budget.max_iter", "gradient.budget.max_iter", "optimizer.lr"}


def test_headings_are_as_long_as_it_takes() -> None:
    one = {"budget": {"tol": 1}, "gradient": {"tol": 1}, "train": {"epochs": 1}}
    other = {"budget": {"tol": 2}, "gradient": {"tol": 3}, "train": {"epochs": 2}}
    assert keys(one, other) == {"budget.tol": "budget.tol", "gradient.tol": "gradient.tol", "train.epochs": "epochs"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-3, "1e-3"),
        (0.00012345678, "0.00012345678"),
        (0.5, "0.5"),
        (1.0, "1"),
        (123456789.0, "123456789.0"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (None, "null"),
        (True, "true"),
        ([1, 0.5, "a"], "[1,0.5,a]"),
        ({"a": 1}, "{a:1}"),
        ("line\nbreak", "line\\nbreak"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\u202eevil", "\\u202eevil"),
    ],
)
def test_values_are_written_as_typed_and_printable(value: object, text: str) -> None:
    assert value_text(value) == text
    assert value_text(value).isprintable()


def test_long_values_stay_different_where_they_are_cut() -> None:
    texts = [f"{'a' * 40}{i}{'b' * 40}" for i in range(3)]
    short = short_texts(texts, 12)
    assert len(set(short)) == 3
    assert all("…" in text for text in short) or short == texts
    assert short_texts(["x" * 100], 11) == ["xxxxx…xxxxx"]


def test_printable_text_is_left_alone() -> None:
    assert printable("λ = ½, 漢字") == "λ = ½, 漢字"
