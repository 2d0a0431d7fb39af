"""Pictures and their tokens."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmrns.errors import DataError, UsageError
from mmrns.prepare.encoders import GRID_WIDTH, GridEncoder, VisionEncoder, grid_tokens
from mmrns.prepare.encoders.cropping import covered, picture_size
from mmrns.prepare.encoders.pictures import (
    Pictures,
    grey_levels,
    grid_shape,
    pictures_by_name,
    pictures_of_column,
    read_picture,
    reading_pictures,
)
from mmrns.prepare.folders import pictures_of


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
    found = pictures_by_name(tmp_path, {"a", "b/c", "x:y", "d.e", "zoe", "Åland"})
    named = {entity: [path.relative_to(tmp_path).as_posix() for path in paths] for entity, paths in found.of.items()}
    assert named == {
        "a": ["a.png", "a/10.png", "a/2.JPG"],
        "b/c": ["b/c.png"],
        "x:y": ["x%3Ay.gif"],
        "d.e": ["d.e.png"],
        "Åland": ["A\u030aland.png"],
    }
    assert found.unmatched == ["nobody.png", "f/g/h.png"]
    assert found.others == ["b.txt"]


def test_pictures_of_a_column(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.png", "images/b/1.png", "images/b/2.png", "images/b/notes.txt")
    rows = [("a", "images/a.png"), ("b", "images/b"), ("c", " "), ("d", "images/absent.png")]
    found = pictures_of_column(tmp_path, tmp_path / "entities.tsv", rows)
    images = tmp_path / "images"
    assert found.of == {
        "a": [images / "a.png"],
        "b": [images / "b/1.png", images / "b/2.png"],
        "d": [images / "absent.png"],
    }
    assert found.others == ["images/b/notes.txt"]


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
    os.symlink(tmp_path, tmp_path / "own" / "out")  # Not entered, but told.
    os.symlink(tmp_path / "own", tmp_path / "own" / "loop")  # All of it is seen already.
    assert pictures_by_name(tmp_path / "own", {"a"}) == Pictures(unmatched=["b.png"], others=["out"])
    os.symlink(tmp_path / "secret.png", tmp_path / "own" / "a.png")
    with pytest.raises(DataError, match=r"a\.png: is a link that leaves .+own; put the picture itself there"):
        pictures_by_name(tmp_path / "own", {"a"})


def test_every_file_of_a_folder_is_accounted_for(tmp_path: Path) -> None:
    """Pictures are known by their content where the suffix does not say it; what systems leave behind is not told."""
    png = flag("fr").read_bytes()
    touch(tmp_path, "a.JFIF", "b.heic", "c.svg", "d/x.jp2", "notes.txt", "Thumbs.db", ".DS_Store", "e/._1.png", "h")
    for name in ("e/1", "f", "g.part", ".net.png"):
        touch(tmp_path, name)
        (tmp_path / name).write_bytes(png)
    found = pictures_by_name(tmp_path, [*"abcdefgh", "g.part", ".net"])
    assert {
        entity: [path.relative_to(tmp_path).as_posix() for path in paths] for entity, paths in found.of.items()
    } == {
        ".net": [".net.png"],
        "a": ["a.JFIF"],
        "b": ["b.heic"],
        "c": ["c.svg"],
        "d": ["d/x.jp2"],
        "e": ["e/1"],
        "f": ["f"],
        "g.part": ["g.part"],
        "h": ["h"],  # Empty, and so of no format; but without a suffix it is meant to be a picture.
    }
    assert (found.unmatched, found.others) == ([], ["notes.txt"])


def test_links_to_folders_within_are_entered(tmp_path: Path) -> None:
    touch(tmp_path, "store/1.png", "x/y/2.png")
    (tmp_path / "bob").symlink_to("store")
    (tmp_path / "x/y/up").symlink_to("..")  # A circle.
    found = pictures_by_name(tmp_path, ["bob", "x/y"])
    assert found.of == {"bob": [tmp_path / "bob/1.png"], "x/y": [tmp_path / "x/y/2.png"]}
    assert found.unmatched == ["store/1.png"]


CELLS = {
    "images\\a.png": ["images/a.png"],
    ".\\images\\a.png": ["images/a.png"],
    "images/A.PNG": ["images/a.png"],
    "Images/a.png": ["images/a.png"],
    "images/with%20blank.png": ["images/with blank.png"],
    "images\\with%20blank.PNG": ["images/with blank.png"],
    "images/100%.png": ["images/100%.png"],
    "images/e\u0301.png": ["images/\u00e9.png"],
    "images/a.png;images/b,c.png": ["images/a.png", "images/b,c.png"],
    "images/b,c.png": ["images/b,c.png"],
    "images/a.png | images\\b,c.png": ["images/a.png", "images/b,c.png"],
    "images/a.png, images/100%.png": ["images/a.png", "images/100%.png"],
    "images/a.png;images/absent.png": ["images/a.png", "images/absent.png"],
    "images\\absent.png": ["images/absent.png"],
    "images/s;t.png": ["images/s;t.png"],
    "images/two.png": ["images/two.png"],  # Which of two is meant nobody knows.
}


@pytest.mark.parametrize("cell", CELLS)
def test_the_column_image_is_read_however_it_is_written(tmp_path: Path, cell: str) -> None:
    names = ("a.png", "with blank.png", "100%.png", "\u00e9.png", "b,c.png", "s;t.png", "TWO.png", "Two.PNG")
    touch(tmp_path / "images", *names)
    found = pictures_of_column(tmp_path, tmp_path / "entities.tsv", [("x", cell)])
    assert [path.relative_to(tmp_path).as_posix() for path in found.of["x"]] == CELLS[cell]
    assert len(found.unmatched) == len(names) - sum((tmp_path / name).exists() for name in CELLS[cell])


def test_cells_that_name_no_picture(tmp_path: Path) -> None:
    touch(tmp_path, "images/empty/notes.txt", "images/a.png")
    rows = [("a", "https://x.org/a.png"), ("b", "images/empty"), ("c", "images/a.png;../b.png")]
    with pytest.raises(DataError, match=r"entities\.tsv:4: image 'images/a\.png;\.\./b\.png' is not inside"):
        pictures_of_column(tmp_path, tmp_path / "entities.tsv", rows)
    found = pictures_of_column(tmp_path, tmp_path / "entities.tsv", rows[:2])
    assert [(one.entity, one.reason) for one in found.skipped] == [
        ("a", "a web address; download it and name the file"),
        ("b", "a folder without pictures"),
    ]
    assert (found.of, found.others, found.unmatched) == ({}, ["images/empty/notes.txt"], ["images/a.png"])


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
        (np.array([[0.25, 0.5]], np.float32), [64, 128]),
        (np.array([[0, 128, 255]], np.float32), [0, 128, 255]),
        (np.array([[0, 65535]], np.float32), [0, 255]),
        (np.array([[-3e38, 0, 3e38]], np.float32), [0, 128, 255]),
        (np.array([[np.nan, 0.5, np.inf]], np.float32), [0, 128, 0]),
        (np.array([[7e6, 7e6]], np.float32), [0, 0]),
        (np.array([[0, 1, 255]], np.int32), [0, 1, 255]),
        (np.array([[0, 65535]], np.int32), [0, 255]),
        (np.array([[-10, 0, 10]], np.int32), [0, 128, 255]),
        (np.array([[0, 2**32 - 1]], np.uint32), [0, 255]),
        (np.array([[0, 40000]], np.uint16), [0, 156]),
        (np.array([[0, 40000]], ">u2"), [0, 156]),
    ],
)
def test_deep_pictures_are_scaled_by_their_range(tmp_path: Path, values: np.ndarray, levels: list[int]) -> None:
    assert grey_levels(values).tolist() == [levels]
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "deep.tif"
    image.fromarray(values.view(np.int32) if values.dtype == np.uint32 else values).save(path)
    if values.dtype == np.uint32:  # Which the library does not write: tag 339 says it.
        signed, unsigned = (struct.pack("<HHIH", 339, 3, 1, kind) for kind in (2, 1))
        assert path.read_bytes().count(signed) == 1
        path.write_bytes(path.read_bytes().replace(signed, unsigned))
    picture = read_picture(tmp_path / "deep.tif")
    assert picture.mode == "RGB"
    assert np.asarray(picture)[0, :, 0].tolist() == levels


def test_pictures_without_a_finite_value_cannot_be_read(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.full((2, 2), np.nan, np.float32)).save(tmp_path / "nan.tif")
    with pytest.raises(ValueError, match="no value is finite"):
        read_picture(tmp_path / "nan.tif")


def test_unusual_pictures(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    red = image.new("RGB", (4, 4), "red")
    red.save(tmp_path / "red.avif")
    red.save(tmp_path / "red.jfif", format="jpeg")
    red.save(tmp_path / "red", format="png")
    red.save(tmp_path / "red.jp2")
    red.save(tmp_path / "moving.gif", save_all=True, append_images=[image.new("RGB", (4, 4), "blue")])
    for path in tmp_path.iterdir():
        np.testing.assert_allclose(np.asarray(read_picture(path))[1, 1], [255, 0, 0], atol=8)
    image.new("LA", (2, 2), (0, 0)).save(tmp_path / "clear.png")
    deep = image.fromarray(np.array([[0, 40000]], np.uint16))
    deep.save(tmp_path / "deep.png", transparency=40000)
    assert read_picture(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)
    assert [read_picture(tmp_path / "deep.png").getpixel((x, 0)) for x in (0, 1)] == [(0, 0, 0), (255, 255, 255)]
    turned = image.new("F", (4, 2))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.tif", exif=exif)
    assert read_picture(tmp_path / "turned.tif").size == (2, 4)
    red.save(tmp_path / "exif.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\xff\xff")
    with reading_pictures():
        assert read_picture(tmp_path / "exif.jpg").size == (4, 4)


def test_what_cannot_be_read_is_called_by_its_format(tmp_path: Path) -> None:
    kinds = {
        b'<?xml version="1.0"?>\n<svg xmlns="http://x"/>': "SVG, which cannot be read; save it as PNG",
        b"\0\0\0\x18ftypheic" + bytes(20): "HEIC, which cannot be read; save it as PNG",
        b"<html><body>404</body></html>": "no picture that can be read",
    }
    for content, reason in kinds.items():
        (tmp_path / "x.png").write_bytes(content)
        with pytest.raises(ValueError, match=f"^{reason}$"):
            read_picture(tmp_path / "x.png")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match="no regular file"):
        read_picture(tmp_path / "pipe.png")


def test_links_in_a_circle_are_listed_as_files(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("a.png")
    (tmp_path / "b.png").symlink_to("c.png")
    (tmp_path / "c.png").symlink_to("b.png")
    assert [path.name for path in pictures_of(tmp_path)] == ["a.png", "b.png", "c.png"]
    with pytest.raises(DataError, match="cannot be listed"):
        pictures_of(tmp_path / "nowhere")


PROCESSORS = {
    "squeezed": ("ViTImageProcessor", {"size": {"height": 32, "width": 32}}),
    "cut out": ("CLIPImageProcessor", {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}),
    "smaller than resized": (
        "BitImageProcessor",
        {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 24}, "do_center_crop": True},
    ),
    "ConvNeXt": ("ConvNextImageProcessor", {"size": {"shortest_edge": 32}, "crop_pct": 0.8}),
    "ConvNeXt, large": ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}, "crop_pct": 0.8}),
    "cut out, then squeezed": (
        "BeitImageProcessor",
        {"size": {"height": 64, "width": 64}, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}},
    ),
}


@pytest.mark.parametrize("case", PROCESSORS)
@pytest.mark.parametrize("size", [(200, 100), (90, 160), (128, 128)])
def test_the_part_that_a_model_sees(case: str, size: tuple[int, int]) -> None:
    """Against a picture whose colours say where one is: red grows to the right, green downwards."""
    transformers, image = pytest.importorskip("transformers"), pytest.importorskip("PIL.Image")
    name, settings = PROCESSORS[case]
    plain = {"do_normalize": False, "do_rescale": False, "do_convert_rgb": False, "resample": 2}
    processor = getattr(transformers, name)(**plain, **settings)
    width, height = size
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0] = np.linspace(0, 255, width).round()[None, :]
    ramp[..., 1] = np.linspace(0, 255, height).round()[:, None]
    seen = np.asarray(processor(images=[image.fromarray(ramp)], return_tensors="np")["pixel_values"][0]) / 255
    box = covered(processor, width, height)
    assert box is not None
    measured = (seen[0, :, 0].mean(), seen[1, 0].mean(), seen[0, :, -1].mean(), seen[1, -1].mean())
    # Half a pixel of what is left, for what is measured is the middle of the outermost ones.
    assert box == pytest.approx(measured, abs=0.03)


def test_the_part_that_is_seen_may_not_be_known() -> None:
    class Padding:
        do_pad, size = True, {"longest_edge": 32}

    class Longest:
        do_pad, do_resize, size = False, True, {"longest_edge": 32}

    class Nothing:
        do_resize = False

    assert [covered(one(), 30, 20) for one in (Padding, Longest, Nothing)] == [None, None, (0, 0, 1, 1)]


def test_the_size_of_a_picture_that_lies_on_its_side(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    turned = image.Exif()
    turned[0x0112] = 6
    image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=turned)
    image.new("RGB", (30, 20)).save(tmp_path / "b.png")
    (tmp_path / "c.png").write_text("no picture")
    assert [picture_size(tmp_path / name) for name in ("a.jpg", "b.png", "c.png")] == [(20, 30), (30, 20), None]
    assert read_picture(tmp_path / "a.jpg").size == (20, 30)
