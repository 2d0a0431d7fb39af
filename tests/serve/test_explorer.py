"""The explorer in a browser: by mouse at two widths and in both colour schemes, by keyboard alone, with a token."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import mmrns
from mmrns.serve.app import create_app

from .conftest import running

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
TOKEN = "a-token-of-some-length"
EVIDENCE: dict[str, Any] = {
    "names": {"country/France": "France", "country/Spain": "Spain", "borders": "shares a land border with"},
    "parts": [{"part": "structure", "adds": 1.5, "rank_without": 40}],
    "similar": [
        {"head": "country/Spain", "relation": "borders", "tail": "country/France", "by": "structure", "similarity": 0.8}
    ],
    "inverse": [],
    "paths": [
        {
            "triples": [["country/France", "borders", "country/Spain"], ["country/Spain", "borders", "country/France"]],
            "confidence": 0.5,
            "support": 3,
        }
    ],
    "influence": [{"head": "country/France", "relation": "borders", "tail": "country/Spain", "change": -0.25}],
}


class Explained(mmrns.Run):
    """A run whose evidence is known beforehand, so that it can be looked for on the page."""

    def explain(self, head: str, relation: str, tail: str, *, side: str = "tail", top: int = 10) -> dict[str, Any]:
        return {"head": head, "relation": relation, "tail": tail, "side": side, "score": 1.0, "rank": 1, **EVIDENCE}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if path is None:
        pytest.skip("needs chromium to look at the explorer")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(runs: dict[str, mmrns.Run]) -> Iterator[str]:
    folder = runs["flags"].folder
    assert folder is not None
    with running(create_app({"flags": Explained.load(folder), "world": runs["world"]})) as address:
        yield address


def open_page(browser: Browser, width: int = 1400, scheme: Any = "light") -> tuple[Page, list[str]]:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.set_default_timeout(60_000)
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    return page, wrong


def fits(page: Page) -> bool:
    """Nothing is wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def lightness(page: Page, what: str) -> float:
    """Of a colour of the page's body, from 0 to 255."""
    colour = page.evaluate(f"getComputedStyle(document.body).{what}")
    return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / 3


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (400, "dark")])
def test_from_a_search_to_the_evidence_and_the_negatives(
    browser: Browser, address: str, width: int, scheme: str, tmp_path: Path
) -> None:
    page, wrong = open_page(browser, width, scheme)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    page.get_by_role("heading", name="What is missing in countries?").wait_for()
    assert (lightness(page, "backgroundColor") > lightness(page, "color")) == (scheme == "light")
    assert fits(page)
    page.get_by_role("combobox", name="Search an entity").fill("frnace")
    page.get_by_role("option", name="France").first.click()
    page.get_by_role("heading", name="France", exact=True).wait_for()
    portrait = page.get_by_alt_text("Picture of France")
    portrait.wait_for()
    page.get_by_role("list").filter(has_text="Germany").first.wait_for()
    page.locator(".similar li").first.wait_for()
    page.get_by_role("button", name="image").click()
    page.locator("button[aria-pressed=true]", has_text="image").wait_for()
    assert fits(page)
    page.get_by_role("link", name="shares a land border with ?", exact=True).click()
    page.locator(".answers tbody tr").nth(9).wait_for()
    assert "France" in page.locator("h1").inner_text()
    assert page.locator(".answers .tag.known").count() == 0
    page.get_by_role("link", name="all", exact=True).click()
    page.locator(".tabs [aria-current]", has_text="all").wait_for()
    page.get_by_role("button", name="why").first.click()
    page.get_by_role("heading", name="Similar and known").wait_for()
    evidence = page.locator(".evidence").inner_text()
    for said in (
        "Structure",
        "rank 40",
        "Spain shares a land border with France",
        "structure 0.80",
        "50\u00a0%",
        "−0.250",
    ):
        assert said in evidence
    assert fits(page)
    page.get_by_role("link", name="Negatives for").first.click()
    page.locator(".negatives li").nth(5).wait_for()
    page.get_by_label("Beside it").select_option("language")
    page.get_by_label("Replaced").select_option("head")
    page.get_by_role("button", name="Draw").click()
    page.wait_for_url(re.compile("a=language"))
    page.locator(".columns.n2 > section").nth(1).wait_for()
    pictures = page.locator(".spotlight")
    assert pictures.count() == 2
    assert pictures.first.locator("i").count() == 24
    before = pictures.last.locator("i").first.evaluate("cell => cell.style.getPropertyValue('--v')")
    page.locator(".attention button", has_text="République française").first.click()
    after = pictures.last.locator("i").first.evaluate("cell => cell.style.getPropertyValue('--v')")
    # Both relations follow the text that is chosen for one.
    assert before != after
    assert page.locator(".attention button[aria-pressed=true]", has_text="République française").count() == 2
    assert fits(page)
    page.go_back()
    page.locator(".columns.n1").wait_for()
    page.screenshot(path=tmp_path / "shot.png")
    assert wrong == []
    assert all(url.startswith((address, "data:", "blob:")) for url in requests)
    page.close()


def test_by_keyboard_alone(browser: Browser, address: str) -> None:
    page, wrong = open_page(browser)
    page.goto(address)
    page.get_by_role("heading", name="What is missing in countries?").wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert page.locator(".skip").bounding_box()["y"] >= 0  # pyright: ignore[reportOptionalSubscript]
    page.keyboard.press("/")
    field = page.get_by_role("combobox", name="Search an entity")
    assert field.evaluate("field => field === document.activeElement")
    page.keyboard.type("guinea")
    page.locator("header .hits [role=option]").nth(1).wait_for()
    page.keyboard.press("ArrowDown")
    chosen = page.locator("header [role=option][aria-selected=true]")
    assert chosen.get_attribute("id") == field.get_attribute("aria-activedescendant")
    name = chosen.locator(".name").inner_text()
    page.keyboard.press("Escape")
    assert field.get_attribute("aria-expanded") == "false"
    page.keyboard.press("ArrowDown")
    page.locator("header .hits [role=option]").nth(1).wait_for()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name=name, exact=True).wait_for()
    # What has the focus is seen, and the page tells that it has changed.
    assert page.evaluate("document.activeElement.id") == "main"
    assert page.locator("#live").inner_text() == name
    page.keyboard.press("Tab")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"
    assert wrong == []
    page.close()


def test_the_theme_is_kept_and_two_runs_are_compared(browser: Browser, address: str) -> None:
    page, wrong = open_page(browser, 400)
    page.goto(f"{address}/#/runs?h=country/France&r=borders&a=flags&b=world")
    page.locator(".compared tbody tr").nth(9).wait_for()
    assert page.locator("svg.chart").count() == 2
    assert fits(page)
    theme = page.get_by_role("button", name="Theme")
    theme.click()
    theme.click()
    assert lightness(page, "backgroundColor") < 60
    page.reload()
    page.locator("svg.chart").first.wait_for()
    assert lightness(page, "backgroundColor") < 60
    page.locator("#run").select_option("world")
    page.get_by_role("heading", name="world", exact=True).wait_for()
    assert "run=world" in page.url
    page.goto(f"{address}/docs")
    page.locator("article", has_text="/api/v1/predict").first.wait_for()
    assert page.locator("article").count() >= 13
    assert fits(page)
    page.goto(f"{address}/#/entity?e=Atlantis")
    page.get_by_role("alert").wait_for()
    assert "Unknown entity 'Atlantis'" in page.get_by_role("alert").inner_text()
    assert [text for text in wrong if "404" not in text] == []
    page.close()


def test_a_token_is_asked_for_once(browser: Browser, runs: dict[str, mmrns.Run]) -> None:
    with running(create_app({"world": runs["world"]}, token=TOKEN)) as address:
        page, _ = open_page(browser)
        page.goto(f"{address}/#/entity?e=country/Kenya")
        page.get_by_role("textbox", name="Token").fill("not the one")
        page.keyboard.press("Enter")
        page.get_by_text("That was not it").wait_for()
        page.get_by_role("textbox", name="Token").fill(TOKEN)
        page.get_by_role("button", name="Go on").click()
        portrait = page.get_by_alt_text("Picture of Kenya")
        portrait.wait_for()
        page.wait_for_timeout(200)
        assert (portrait.get_attribute("src") or "").startswith("blob:")
        assert portrait.evaluate("picture => picture.naturalWidth") > 50
        assert TOKEN not in page.url
        page.close()
