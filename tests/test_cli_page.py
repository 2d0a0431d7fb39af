"""The page of `mmrns inspect`: what is embedded, what is escaped, and what a browser makes of it."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mmrns
from mmrns.errors import DataError
from mmrns.inspection.draws import Cells, Inspection
from mmrns.inspection.page import page, write_page
from mmrns.inspection.pictures import PIXELS, embedded

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--v=0",
]
PROBE = """
<script>
addEventListener("load", () => {
  const all = (query) => [...document.querySelectorAll(query)];
  const shades = new Set(all(".heat td").map((cell) => getComputedStyle(cell).backgroundColor));
  const report = {
    pictures: all("svg.picture").map((svg) => [svg.viewBox.baseVal.width, svg.clientWidth, svg.ariaLabel]),
    stored: all("image").map((image) => image.getBBox().width),
    unmet: all("svg.picture use").filter((use) => !document.querySelector(use.getAttribute("href"))).length,
    cells: all(".heat td").filter((cell) => cell.checkVisibility() && cell.clientWidth * cell.clientHeight > 99).length,
    hidden: all("details .heat td").length,
    shades: shades.size,
    veils: new Set(all(".veils i").map((veil) => getComputedStyle(veil).backgroundColor)).size,
    rows: all(".negatives tbody tr").length,
    bars: all(".bar").map((bar) => bar.getBoundingClientRect().width),
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    requests: performance.getEntriesByType("resource").filter((entry) => !entry.name.startsWith("data:")).length,
  };
  const pre = document.createElement("pre");
  pre.id = "report";
  pre.textContent = JSON.stringify(report);
  document.body.append(pre);
});
</script>
"""


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> tuple[mmrns.Run, Inspection]:
    config = {
        "data": {"dataset": "countries"},
        "model": {"dim": 8},
        "sampler": {
            "name": "mmrns",
            "negatives": 6,
            "pool": 64,
            "domain_range": 64,
            "discount": 0.25,
            "attention": True,
        },
        "training": {"steps": 4, "batch_size": 64, "evaluate_every": 4},
        "device": "cpu",
    }
    run = mmrns.train(config, out=tmp_path_factory.mktemp("page") / "run", plots=False)
    samplers = ["uniform"]
    return run, run.inspect("France", "borders", "Germany", against=["language"], samplers=samplers, steps=6, top=6)


def _browse(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip("needs chromium to look at the page")
    done = subprocess.run(
        [browser, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr, done.stderr
    return done


@pytest.mark.parametrize("width", [1400, 500])
def test_a_browser_draws_pictures_and_heat_maps(
    flags: tuple[mmrns.Run, Inspection], tmp_path: Path, width: int
) -> None:
    run, found = flags
    text = page(found, run.dataset.folder)
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert policy in text
    probed = tmp_path / "probed.html"
    probed.write_text(
        text.replace(policy, policy + "; script-src 'unsafe-inline'").replace("</body>", PROBE + "</body>")
    )
    dom = _browse(tmp_path, f"--window-size={width},900", "--dump-dom", probed.as_uri()).stdout
    match = re.search(r'<pre id="report">(.*?)</pre>', dom, re.DOTALL)
    assert match is not None
    report = json.loads(match[1])
    # The flags of the two triples on both sides, of listed negatives, and those that the heat maps are laid over.
    assert len(report["pictures"]) > 10
    assert all(natural == 144 and shown > 50 for natural, shown, _ in report["pictures"])
    assert max(shown for _, shown, _ in report["pictures"]) > 100
    # Each picture is held once, however often it is shown.
    assert len(report["pictures"]) > 1.5 * len(report["stored"])
    assert set(report["stored"]) == {144}
    assert report["unmet"] == 0
    assert {"Picture of France", "Picture of Germany"} <= {alt for *_, alt in report["pictures"]}
    # Under each of the two relations 4 x 24 cells a modality read, for France; and for Germany once.
    assert report["cells"] == 3 * 2 * 96
    assert report["hidden"] == 3 * 3 * 2 * 96
    assert report["shades"] > 50
    assert report["veils"] > 20
    assert report["rows"] == 6 * sum(len(query["samplers"]) for query in found["queries"])
    assert max(report["bars"]) > 20
    assert report["overflow"] == 0
    assert report["requests"] == 0


def test_a_screenshot_shows_the_flags(flags: tuple[mmrns.Run, Inspection], tmp_path: Path) -> None:
    run, found = flags
    path, shot = tmp_path / "page.html", tmp_path / "shot.png"
    write_page(found, run.dataset.folder, path)
    _browse(tmp_path, "--window-size=1400,900", f"--screenshot={shot}", path.as_uri())
    pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    assert pixels.shape == (900, 1400, 3)
    for colour in ((255, 0, 0), (255, 204, 0), (0, 0, 145)):  # Of Germany's flag, and the blue of France's.
        near = (np.abs(pixels - colour).max(axis=2) < 16).sum()
        assert near > 300, colour


def test_names_are_escaped(flags: tuple[mmrns.Run, Inspection]) -> None:
    run, found = flags
    names = found["names"] | {"country/France": "<script>alert('&')</script>", "borders": '"><img src=x>'}
    text = page({**found, "names": names}, run.dataset.folder)
    assert "<script" not in text
    assert "<img src=x>" not in text
    assert "&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;" in text
    assert not re.search(r"(src|href)=[\"']?https?:", text)


def test_pictures_are_small_upright_and_of_the_dataset_only(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "large.png")
    Image.fromarray(noise).save(folder / "photo.jpg")
    clear = Image.fromarray(noise)
    clear.putalpha(Image.fromarray(noise[..., 0]))
    clear.save(folder / "clear.png")
    Image.fromarray(noise[:20, :30]).save(folder / "small.png")
    Image.fromarray(noise[:20, :30]).save(folder / "old.bmp")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(noise[:20, :30]).save(folder / "turned.jpg", exif=turned)
    Image.fromarray(noise[:20, :30]).save(tmp_path / "outside.png")
    (folder / "broken.png").write_bytes((folder / "small.png").read_bytes()[:100])
    (folder / "text.png").write_text("no picture")
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    names = ["large.png", "photo.jpg", "clear.png", "small.png", "old.bmp", "turned.jpg"]
    odd = ["broken.png", "text.png", "none.png", ".", "link.png", "../outside.png", str(tmp_path / "outside.png")]
    pictures, unread = embedded([*names, *odd, *names], folder)
    assert [*pictures] == names
    assert unread == odd
    assert len({one.key for one in pictures.values()}) == len(names)
    sizes, kinds = {}, {}
    for name, one in pictures.items():
        kind, data = re.fullmatch(r"data:image/(\w+);base64,(.+)", one.uri).groups()  # pyright: ignore[reportOptionalMemberAccess]
        kinds[name] = kind
        sizes[name] = Image.open(io.BytesIO(base64.b64decode(data))).size
        assert sizes[name] == (one.width, one.height)
    assert sizes == dict.fromkeys(names[:3], (PIXELS, PIXELS * 3 // 4)) | dict.fromkeys(names[3:5], (30, 20)) | {
        "turned.jpg": (20, 30)
    }
    assert kinds == dict(zip(names, ("jpeg", "jpeg", "png", "png", "jpeg", "jpeg"), strict=True))
    assert base64.b64decode(pictures["small.png"].uri.split(",")[1]) == (folder / "small.png").read_bytes()
    assert embedded(names, None) == ({}, [])


def test_what_could_not_be_read_is_said_and_a_bad_place_is_one_line(
    flags: tuple[mmrns.Run, Inspection], tmp_path: Path
) -> None:
    run, found = flags
    text = page({**found, "images": {"country/France": "../x.png"}}, run.dataset.folder)
    assert "1 pictures could not be read, first: <code>../x.png</code>" in text
    with pytest.raises(DataError, match=r"cannot be written \(Is a directory\)"):
        write_page(found, run.dataset.folder, tmp_path)


def test_many_guiding_tokens_share_a_picture(flags: tuple[mmrns.Run, Inspection]) -> None:
    run, found = flags
    drawn = found["queries"][0]["samplers"][0]
    assert drawn["attention"] is not None
    image = next(one for one in drawn["attention"]["maps"] if one["reads"] == "image")
    alone = {**image, "guide": "image"}
    for name in ("affinity", "attention", "gate"):
        alone[name] = [[row[0]] * 24 for row in image[name]]
    tokens = {"image": drawn["attention"]["tokens"]["image"]}
    only = {**drawn, "attention": {"entity": "country/Germany", "tokens": tokens, "maps": [alone]}}
    query = {**found["queries"][0], "samplers": [only]}
    text = page({**found, "queries": [query]}, run.dataset.folder)
    assert text.count("<figure>") == 1
    assert "mean over 24 image tokens" in text
    assert "Image tokens, guided by one another" in text


def _with_tokens(found: Inspection, **changes: Any) -> Inspection:
    """One query alone, the first of the tail side, whose image tokens are others."""
    drawn = found["queries"][0]["samplers"][0]
    assert drawn["attention"] is not None
    tokens = {**drawn["attention"]["tokens"]}
    tokens["image"] = {**tokens["image"], **changes}  # type: ignore[typeddict-item]
    only = {**drawn, "attention": {**drawn["attention"], "tokens": tokens}}
    return {**found, "queries": [{**found["queries"][0], "samplers": [only]}]}  # type: ignore[typeddict-item]


def test_the_page_says_what_a_negative_is_and_why_one_looks(flags: tuple[mmrns.Run, Inspection]) -> None:
    run, found = flags
    text = page(found, run.dataset.folder)
    purpose = re.search(r'<p class="purpose">(.*?)</p>', text)
    assert purpose is not None
    assert purpose[1].startswith("A negative is a triple with its head or tail replaced")
    assert len(re.findall(r"\.(?: |$)", purpose[1])) == 2


def test_tokens_of_several_pictures_are_laid_over_the_part_that_was_encoded(
    flags: tuple[mmrns.Run, Inspection],
) -> None:
    run, found = flags
    first: Cells = {"picture": "images/de.png", "rows": 2, "columns": 6, "box": (0.125, 0.0, 0.875, 1.0)}
    second: Cells = {"picture": "images/fr.png", "rows": 3, "columns": 4, "box": (0.0, 0.0, 1.0, 1.0)}
    elsewhere: Cells = {**second, "picture": None}
    text = page(_with_tokens(found, grids=[first, second]), run.dataset.folder)
    # Each of them for each of the four texts of Germany, with its own cells.
    assert text.count("<figure>") == 8
    for cells, inset in ((6, "0.00% 12.50% 0.00% 12.50%"), (4, "0.00% 0.00% 0.00% 0.00%")):
        veils = re.findall(rf'<div class="veils" style="--columns:{cells};inset:{inset} "[^>]*>(.*?)</div>', text)
        assert [one.count("<i ") for one in veils] == [12] * 4
    assert "picture 2, row 3, column 4" in text
    assert 'title="Germany · picture 1, row 1, column 1: ' in text
    # The cells of a picture that is not shown are those of nothing else.
    alone = page(_with_tokens(found, grids=[elsewhere, second]), run.dataset.folder)
    shades = [re.findall(r"--columns:4;.*?</div>", one) for one in (text, alone)]
    assert alone.count("<figure>") == 4
    assert shades[0] == shades[1] != []


@pytest.mark.parametrize(
    ("changes", "remark"),
    [
        ({"grids": []}, "Tokens have numbers, since features/image.tokens.jsonl does not say what they were made of"),
        ({"picture": None}, "since it lies outside the dataset folder"),
        ({"picture": "images/none.png"}, "since it could not be read"),
        ({"box": None}, "since it is not known which part of it the model looked at"),
    ],
)
def test_where_nothing_can_be_laid_over_the_page_says_why(
    flags: tuple[mmrns.Run, Inspection], changes: dict[str, Any], remark: str
) -> None:
    run, found = flags
    cells: dict[str, Any] = {"picture": "images/de.png", "rows": 4, "columns": 6, "box": (0.0, 0.0, 1.0, 1.0)}
    own = changes if "grids" in changes else {"grids": [cells | changes]}
    text = page(_with_tokens(found, **own), run.dataset.folder)
    assert text.count("<figure>") == 0
    assert text.count(remark) == 1
    assert ("image 24" in text) == ("grids" in changes)
    assert remark not in page(found, run.dataset.folder)


def test_the_words_of_text_tokens_are_listed_with_their_numbers(flags: tuple[mmrns.Run, Inspection]) -> None:
    run, found = flags
    text = page(found, run.dataset.folder)
    assert '<ol class="tokens"><li value="1">Germany</li><li value="2">Federal Republic of Germany</li>' in text
    assert '<th scope="row" title="Federal Republic of Germany">' in text


def test_several_modalities_that_guide_one_together_are_named() -> None:
    names = ["ann", "bob", "cem", "dan"]
    rng = np.random.default_rng(0)
    features = {name: (names, rng.normal(size=(4, tokens, 3))) for name, tokens in (("a", 1), ("b", 2), ("c", 3))}
    triples = [("ann", "knows", "bob"), ("bob", "knows", "cem"), ("cem", "knows", "dan"), ("dan", "likes", "ann")]
    dataset = mmrns.Dataset.from_triples(triples, valid=[("ann", "knows", "cem")], features=features)
    settings = {"sampler.attention": True, "training.batch_size": 4}
    run = mmrns.train(dataset=dataset, method="mmrns", dim=4, steps=2, settings=settings)
    found = run.inspect("ann", "knows", "bob", side="head", steps=2)
    attention = found["queries"][0]["samplers"][0]["attention"]
    assert attention is not None
    assert {one["reads"]: one["guide"] for one in attention["maps"]} == {"a": "b + c", "b": "a + c", "c": "a + b"}
    assert attention["tokens"]["b + c"]["labels"] == ["b 1", "b 2", "c 1", "c 2", "c 3"]
    html = page(found, None)
    assert "a + c" in html
    assert "c 3" in html
