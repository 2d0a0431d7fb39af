from __future__ import annotations

from pathlib import Path

import pytest

from mmrns.data.datasets import Dataset
from mmrns.errors import DataError, UsageError
from mmrns.runs.config import apply_settings, dump_config, make_config
from mmrns.runs.methods import method_names
from mmrns.runs.values import parse_yaml, read_config
from mmrns.samplers.base import Sampler
from mmrns.samplers.uniform import Uniform


@pytest.mark.parametrize("method", method_names())
def test_a_written_configuration_is_complete_and_reads_back(method: str) -> None:
    config = make_config({"method": method})
    assert make_config(parse_yaml(dump_config(config))) == config
    assert config.sampler.model_extra is not None
    assert ("negatives" in config.sampler.model_extra) is (config.recipe.sampler != "1-vs-all")


def test_what_methods_stand_for() -> None:
    def stands(name: str, **training: object) -> tuple[str, float, str]:
        recipe = make_config({"method": name, "training": training}).recipe
        return recipe.sampler, recipe.alpha, recipe.sides

    assert stands("uniform") == ("uniform", 0.0, "alternate")
    assert stands("self-adversarial") == ("uniform", 1.0, "alternate")
    assert stands("bernoulli") == ("uniform", 0.0, "bernoulli")
    assert stands("mmrns") == ("mmrns", 2.0, "alternate")
    assert stands("mmrns", sides="bernoulli") == ("mmrns", 2.0, "bernoulli")
    assert make_config({"objective": {"alpha": 0.5}}).recipe.alpha == 0.5


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("trainin.steps=5", "unknown configuration key 'trainin'; did you mean 'training"),
        ("training.step=5", "did you mean 'training.steps'"),
        ("sampler.negativs=5", "unknown configuration key 'sampler.negativs'; did you mean 'sampler.negatives'"),
        ("model.q=2", "unknown configuration key 'model.q'"),
        ("sampler.name=mmrnz", "did you mean 'mmrns'"),
        ("method=mmrnz", "unknown method 'mmrnz'; did you mean 'mmrns'"),
        ("model.embedder=fuse", "unknown embedder 'fuse'; did you mean 'fused'"),
        ("objective.loss=margn", "unknown loss 'margn'; did you mean 'margin'"),
        ("training.callbacks=[hardnes]", "unknown callback 'hardnes'"),
        ("model.scorer=transe", "did you mean 'TransE'"),
        ("training.steps=many", "training.steps: input should be a valid integer"),
        ("training.steps=-1", "training.steps: input should be greater than 0"),
        ("sampler.negatives=a", "sampler.negatives: input should be a valid integer"),
        ("model.p=3", "model.p: input should be 1 or 2"),
        ("training.lr=.nan", "training.lr"),
        ("steps", "write KEY=VALUE"),
        ("sampler.name=[", "not a YAML value"),
    ],
)
def test_mistakes_are_named(setting: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("[", r"\[")):
        make_config(apply_settings({}, [setting]))


def test_yaml_mistakes_have_a_line(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("model:\n  dim: 5\n dim: 7\n")
    with pytest.raises(DataError, match=r"c\.yaml:3: is not valid YAML"):
        read_config(path)
    path.write_text("- 1\n")
    with pytest.raises(DataError, match="holds no mapping"):
        read_config(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_config(tmp_path / "none.yaml")


def test_shipped_experiment_configurations_are_valid() -> None:
    folder = Path(__file__).parents[2] / "experiments"
    paths = sorted([*folder.glob("*/*.yaml"), *folder.glob("*/models/*.yaml")])
    # A study, and what one was when it was recorded, are no configurations.
    configs = [path for path in paths if not {"methods", "entries"} & parse_yaml(path.read_text()).keys()]
    assert configs
    for path in configs:
        make_config(read_config(path))


@pytest.mark.parametrize("setting", ["refresh=0", "pool=0", "negatives=0", "domain_range=-1", "discount=-0.5"])
def test_sampler_options_out_of_range_are_refused(setting: str) -> None:
    key = setting.partition("=")[0]
    with pytest.raises(UsageError, match=rf"sampler\.{key}: input should be greater than"):
        make_config(apply_settings({}, ["sampler.name=mmrns", f"sampler.{setting}"]))


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        ({"name": "self-adversarial"}, "sampler.name: self-adversarial is the name of a method; write method: "),
        ({"name": "shared"}, "sampler.name: shared is shared-pool now"),
        ({"name": "all"}, "sampler.name: all is 1-vs-all now"),
        ({"name": "mmrns", "reference": True}, "sampler.reference: .*write method: mmrns-published"),
        ({"reference": False}, "sampler.reference: .*write method: mmrns-published"),
        ({"name": "mmrns", "slots": 3}, "sampler.slots: it is sampler.domain_range now"),
        ({"name": "mmrns", "feed": "nscaching"}, "sampler.feed: it is sampler.pool_sampler now"),
        ({"name": "mmrns", "discount": 0}, "sampler.discount: 0 is .*write method: domain-range"),
        ({"name": "sans", "reference": True}, "sampler.reference: .*sampler.restart=false now"),
    ],
)
def test_old_names_end_in_one_line_that_names_the_new_one(sampler: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        make_config({"sampler": sampler})
    assert "\n" not in str(caught.value)


def test_a_sampler_is_its_own_method_and_a_method_takes_another_sampler() -> None:
    assert make_config({"sampler": {"name": "hard"}}).method == "hard"
    config = make_config({"method": "bernoulli", "sampler": {"name": "hard"}})
    assert (config.recipe.sampler, config.recipe.sides, config.recipe.alpha) == ("hard", "bernoulli", 0.0)


def test_a_class_stands_where_a_name_does() -> None:
    class Mine(Uniform):
        pass

    config = make_config({"sampler": {"name": Mine}})
    path = Sampler.registry.name_of(Mine)
    assert (config.method, config.sampler.name) == (path, path)
    assert make_config(parse_yaml(dump_config(config))) == config
    assert config.default_folder.name == "countries-TransE-Mine-s0"
    assert make_config({"method": Mine}).recipe.sampler == path


def test_a_wrong_value_is_told_in_one_line(toy: Dataset) -> None:
    for values in ({"data": {"dataset": toy}}, {"model": {"scorer": toy}}, {"training": toy}, {"seed": "x" * 900}):
        with pytest.raises(UsageError) as caught:
            make_config(values)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300


def test_modalities_make_the_embedder_fused() -> None:
    assert make_config({}).model.embedder == "table"
    assert make_config({"model": {"modalities": ["text"]}}).model.embedder == "fused"
    assert make_config({"model": {"embedder": "fused"}}).model.modalities == []
    with pytest.raises(UsageError, match=r"the embedder table reads none; use model\.embedder=fused"):
        make_config({"model": {"embedder": "table", "modalities": ["text"]}})
