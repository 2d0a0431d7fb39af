from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mmrns.errors import DataError, UsageError
from mmrns.runs.config import METHODS, apply_settings, dump_config, make_config, read_config


@pytest.mark.parametrize("method", METHODS)
def test_a_written_configuration_is_complete_and_reads_back(method: str) -> None:
    config = make_config({"sampler": {"name": method}})
    assert make_config(yaml.safe_load(dump_config(config))) == config
    assert config.sampler.model_extra is not None
    assert ("negatives" in config.sampler.model_extra) is (config.method.sampler != "all")


def test_what_methods_stand_for() -> None:
    def stands(name: str, **training: object) -> tuple[str, float, str]:
        method = make_config({"sampler": {"name": name}, "training": training}).method
        return method.sampler, method.alpha, method.sides

    assert stands("uniform") == ("uniform", 0.0, "alternate")
    assert stands("self-adversarial") == ("uniform", 1.0, "alternate")
    assert stands("bernoulli") == ("uniform", 0.0, "bernoulli")
    assert stands("mmrns") == ("mmrns", 1.0, "alternate")
    assert stands("mmrns", sides="bernoulli") == ("mmrns", 1.0, "bernoulli")
    assert make_config({"objective": {"alpha": 0.5}}).method.alpha == 0.5


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("trainin.steps=5", "unknown configuration key 'trainin'; did you mean 'training"),
        ("training.step=5", "did you mean 'training.steps'"),
        ("sampler.negativs=5", "unknown configuration key 'sampler.negativs'; did you mean 'sampler.negatives'"),
        ("model.q=2", "unknown configuration key 'model.q'"),
        ("sampler.name=mmrnz", "did you mean 'mmrns'"),
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
    paths = sorted((Path(__file__).parents[2] / "experiments").glob("*/*.yaml"))
    configs = [path for path in paths if "methods" not in yaml.safe_load(path.read_text())]
    assert configs
    for path in configs:
        make_config(read_config(path))


@pytest.mark.parametrize(
    "setting", ["refresh=0", "pool=0", "negatives=0", "slots=-1", "discount=-0.5", "temperature=0"]
)
def test_sampler_options_out_of_range_are_refused(setting: str) -> None:
    key = setting.partition("=")[0]
    with pytest.raises(UsageError, match=rf"sampler\.{key}: input should be greater than"):
        make_config(apply_settings({}, ["sampler.name=mmrns", f"sampler.{setting}"]))
