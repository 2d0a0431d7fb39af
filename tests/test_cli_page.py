"""The page of `mmrns inspect`: what is embedded, what is escaped, and what a browser makes of it."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mmrns
from mmrns.errors import DataError
from mmrns.inspection.draws import Inspection
from mmrns.inspection.page import PIXELS, embedded, page, write_page

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
    pictures: all("img").map((img) => [img.naturalWidth, img.clientWidth, img.alt]),
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
    run = mmrns.train(config, out=tmp_path_factory.mktemp("page") / "run")
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
    assert all(natural == 144 and shown > 10 for natural, shown, _ in report["pictures"])
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


def test_pictures_are_small_and_of_the_dataset_only(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "large.png")
    Image.fromarray(noise).save(folder / "photo.jpg")
    Image.fromarray(noise[:20, :30]).save(folder / "small.png")
    Image.fromarray(noise[:20, :30]).save(folder / "old.bmp")
    Image.fromarray(noise[:20, :30]).save(tmp_path / "outside.png")
    (folder / "broken.png").write_bytes((folder / "small.png").read_bytes()[:100])
    (folder / "text.png").write_text("no picture")
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    names = ["large.png", "photo.jpg", "small.png", "old.bmp", "broken.png", "text.png", "none.png", "."]
    names += ["link.png", "../outside.png", str(tmp_path / "outside.png")]
    pictures, unread = embedded({name: name for name in names}, folder)
    assert set(pictures) == set(names[:4])
    assert unread == names[4:]
    sizes, kinds = {}, {}
    for name, uri in pictures.items():
        kind, data = re.fullmatch(r"data:(image/\w+);base64,(.+)", uri).groups()  # pyright: ignore[reportOptionalMemberAccess]
        kinds[name] = kind
        sizes[name] = Image.open(io.BytesIO(base64.b64decode(data))).size
    assert sizes == {"large.png": (PIXELS, 192), "photo.jpg": (PIXELS, 192), "small.png": (30, 20), "old.bmp": (30, 20)}
    assert kinds == {
        "large.png": "image/png",
        "photo.jpg": "image/jpeg",
        "small.png": "image/png",
        "old.bmp": "image/png",
    }
    assert base64.b64decode(pictures["small.png"].split(",")[1]) == (folder / "small.png").read_bytes()


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
