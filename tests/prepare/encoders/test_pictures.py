"""Pictures and their tokens."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmrns.errors import DataError, UsageError
from mmrns.prepare.encoders import GRID_WIDTH, GridEncoder, VisionEncoder, grid_tokens
from mmrns.prepare.encoders.pictures import (
    grid_shape,
    pictures_by_name,
    pictures_of_column,
    read_picture,
    reading_pictures,
)


def stripes(*colours: tuple[int, int, int], height: int = 40, width: int = 60) -> np.ndarray:
    """A picture of vertical stripes of equal width."""
    columns = np.array(colours, dtype=np.uint8).repeat(width // len(colours), axis=0)
    return np.broadcast_to(columns, (height, width, 3)).copy()


def test_grid_tokens_describe_cells():
    red, blue, white = (255, 0, 0), (0, 0, 255), (255, 255, 255)
    values = grid_tokens([stripes(red, blue, white), stripes(blue, red, white), stripes(red, blue, height=33)])
    assert values.shape == (3, 24, GRID_WIDTH)
    assert values.dtype == np.float32
    assert np.isfinite(values).all()
    assert np.abs(values).max() <= 1.01
    assert not np.allclose(values[0], values[1])
    cells = values.reshape(3, 4, 6, GRID_WIDTH)
    np.testing.assert_array_equal(cells[0, 0], cells[0, 3])  # stripes look alike in every row of cells
    assert np.abs(np.diff(cells[0, 0], axis=0)).max(axis=1).min() > 0.01  # and unlike in neighbouring columns


def test_grid_tokens_by_hand():
    """A black and a white half: every column of the layout is known."""
    left, *_, right = grid_tokens([stripes((0, 0, 0), (255, 255, 255), width=20)], rows=1, columns=2)[0]
    for token, lightness, box in ((left, 0, 0), (right, 1, 26)):
        np.testing.assert_allclose(token[:6], [lightness, 0, 0, 0, 0, 0], atol=1e-4)
        assert token[6 + box] == token[6:33].sum() == 1
        # The gradient of a step of height 1 is 1 in the two columns beside it: one of the ten columns of a cell.
        np.testing.assert_allclose(token[33:], [0.1**0.5, *[0] * 8], atol=1e-4)
    rotated = stripes((0, 0, 0), (255, 255, 255), width=20, height=20).transpose(1, 0, 2)
    horizontal = grid_tokens([rotated], rows=2, columns=1)[0, :, 33:]
    assert set(horizontal.argmax(axis=1)) <= {4, 5}  # 90 degrees lies between 80 and 100


@pytest.mark.parametrize("shape", [(40, 60), (40, 60, 4), (3, 60, 3), (40, 5, 3)])
def test_grid_tokens_refuse_other_shapes(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="a picture must be"):
        grid_tokens([np.zeros(shape, dtype=np.uint8)])


def test_grid_tokens_of_no_picture():
    assert grid_tokens([]).shape == (0, 24, GRID_WIDTH)


def flag(code: str) -> Path:
    from mmrns.data.folders import EMBEDDED

    return EMBEDDED["countries"] / "images" / f"{code}.png"


@given(st.integers(1, 400))
def test_grids_have_the_cells_asked_for(cells: int) -> None:
    rows, columns = grid_shape(cells)
    assert rows * columns == cells
    assert rows <= columns
    assert not any(cells % r == 0 for r in range(rows + 1, int(cells**0.5) + 1))


def test_the_classical_encoder_shares_tokens_out() -> None:
    pytest.importorskip("skimage")
    encoder = GridEncoder()
    whole, part = encoder.patches([read_picture(flag("fr")), read_picture(flag("fr"))], [24, 4])
    assert whole.shape == (24, GRID_WIDTH)
    assert part.shape == (4, GRID_WIDTH)
    np.testing.assert_array_equal(whole, grid_tokens([np.asarray(read_picture(flag("fr")))])[0])


@pytest.mark.parametrize("size", [(1, 1), (2, 900), (4000, 3)])
def test_the_classical_encoder_takes_any_size(size: tuple[int, int]) -> None:
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("skimage")
    (tokens,) = GridEncoder().patches([image.new("RGB", size, "red")], [24])
    assert tokens.shape == (24, GRID_WIDTH)
    np.testing.assert_allclose(tokens, np.broadcast_to(tokens[0], tokens.shape), atol=1e-6)


def test_the_patches_of_a_vision_model(vision_model: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    encoder = VisionEncoder(str(vision_model), batch_size=2)
    assert encoder.name == "tiny-beit"
    assert encoder.revision.startswith("sha256 ")
    assert encoder.preprocessing == "BeitImageProcessorPil 32 x 32"
    pictures = [read_picture(flag(code)) for code in ("fr", "de", "jp")]
    found = list(encoder.patches(pictures, [16, 4, 1]))
    assert [tokens.shape for tokens in found] == [(16, 16), (4, 16), (1, 16)]
    # By hand: the processor is a resize and (x / 255 - 1/2) / (1/2); the class token comes first.
    network = transformers.BeitModel.from_pretrained(vision_model).eval()
    pixels = [np.asarray(p.resize((32, 32), resample=2), np.float32).transpose(2, 0, 1) / 127.5 - 1 for p in pictures]
    with torch.no_grad():
        states = network(pixel_values=torch.from_numpy(np.stack(pixels))).last_hidden_state[:, 1:].numpy()
    np.testing.assert_allclose(found[0], states[0], atol=1e-5)
    quarters = states[1].reshape(2, 2, 2, 2, 16).mean(axis=(1, 3)).reshape(4, 16)
    np.testing.assert_allclose(found[1], quarters, atol=1e-5)
    np.testing.assert_allclose(found[2], states[2].mean(axis=0, keepdims=True), atol=1e-5)


def test_models_with_a_feature_map(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    shape = {"embedding_size": 4, "hidden_sizes": [4, 6], "depths": [1, 1], "layer_type": "basic"}
    transformers.ResNetModel(transformers.ResNetConfig(**shape)).save_pretrained(tmp_path / "resnet")
    transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "resnet")
    (tokens,) = VisionEncoder(str(tmp_path / "resnet")).patches([read_picture(flag("fr"))], [6])
    assert tokens.shape == (6, 6)


def test_models_that_lack_weights_are_refused(vision_model: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = tmp_path / "part"
    folder.mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        (folder / name).write_bytes((vision_model / name).read_bytes())
    weights = load_file(vision_model / "model.safetensors")
    del weights["encoder.layer.0.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"cannot be loaded \(its weights lack \S+\.weight\)"):
        VisionEncoder(str(folder))


def test_pictures_of_many_kinds_become_rgb(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    clear = image.new("RGBA", (4, 4), (255, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    clear.quantize(4).save(tmp_path / "palette.png")
    image.fromarray(np.full((4, 4), 40000, np.uint16)).save(tmp_path / "deep.png")
    image.new("CMYK", (4, 4)).save(tmp_path / "cmyk.jpg")
    image.new("1", (4, 4), 1).save(tmp_path / "bits.png")
    turned = image.new("RGB", (4, 2))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    colours = {path.stem: read_picture(path) for path in tmp_path.iterdir()}
    assert all(picture.mode == "RGB" for picture in colours.values())
    assert colours["turned"].size == (2, 4)
    corners = {name: picture.getpixel((0, 0)) for name, picture in colours.items()}
    assert corners["clear"] == corners["palette"] == corners["bits"] == corners["cmyk"] == (255, 255, 255)
    assert corners["deep"] == (156, 156, 156)


def test_pictures_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    whole = flag("fr").read_bytes()
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    image.new("1", (20000, 20000)).save(tmp_path / "huge.png")
    image.new("1", (10000, 10000)).save(tmp_path / "large.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    reasons = {
        "text": "no picture that can be read",
        "empty": "no picture that can be read",
        "cut": ".",
        "huge": "too many pixels",
        "large": "too many pixels",
        "loop": "too many levels of symbolic links",
        "absent": "no such file or directory",
    }
    with reading_pictures():
        for name, reason in reasons.items():
            with pytest.raises(ValueError, match=reason):
                read_picture(tmp_path / f"{name}.png")


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_pictures_by_name(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "a.png",
        "a/2.JPG",
        "a/10.png",
        "b/c.png",
        "b.txt",
        "x%3Ay.gif",
        "nobody.png",
        "A\u030aland.png",
        "d.e.png",
        "f/g/h.png",
    )
    found, unmatched = pictures_by_name(tmp_path, {"a", "b/c", "x:y", "d.e", "zoe", "Åland"})
    named = {entity: [path.relative_to(tmp_path).as_posix() for path in paths] for entity, paths in found.items()}
    assert named == {
        "a": ["a.png", "a/10.png", "a/2.JPG"],
        "b/c": ["b/c.png"],
        "x:y": ["x%3Ay.gif"],
        "d.e": ["d.e.png"],
        "Åland": ["A\u030aland.png"],
    }
    assert unmatched == ["nobody.png", "f/g/h.png"]


def test_pictures_of_a_column(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.png", "images/b/1.png", "images/b/2.png", "images/b/notes.txt")
    rows = [("a", "images/a.png"), ("b", "images/b"), ("c", " "), ("d", "images/absent.png")]
    found = pictures_of_column(tmp_path, tmp_path / "entities.tsv", rows)
    images = tmp_path / "images"
    assert found == {
        "a": [images / "a.png"],
        "b": [images / "b/1.png", images / "b/2.png"],
        "d": [images / "absent.png"],
    }


@pytest.mark.parametrize(
    "path", ["../secret.png", "/etc/hostname", "images/../../secret.png", "link.png", "link/secret.png", "a\0b"]
)
def test_paths_that_leave_the_folder(tmp_path: Path, path: str) -> None:
    folder = tmp_path / "own"
    touch(tmp_path, "secret.png", "own/images/a.png")
    os.symlink(tmp_path / "secret.png", folder / "link.png")
    os.symlink(tmp_path, folder / "link")
    table = folder / "entities.tsv"
    with pytest.raises(DataError) as caught:
        pictures_of_column(folder, table, [("a", "images/a.png"), ("b", path)])
    assert str(caught.value) == f"{table}:3: image {path!r} is not inside {folder}; name a file of that folder"


def test_folders_of_pictures_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no folder; give the folder of the pictures"):
        pictures_by_name(tmp_path / "absent", {"a"})
    touch(tmp_path, "secret.png", "own/b.png")
    os.symlink(tmp_path, tmp_path / "own" / "loop")  # Not entered.
    assert pictures_by_name(tmp_path / "own", {"a"}) == ({}, ["b.png"])
    os.symlink(tmp_path / "secret.png", tmp_path / "own" / "a.png")
    with pytest.raises(DataError, match=r"a\.png: is a link that leaves .+own; put the picture itself there"):
        pictures_by_name(tmp_path / "own", {"a"})
