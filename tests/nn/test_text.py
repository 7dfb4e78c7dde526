"""Text files: read, numbered, cut into batches; and what is wrong with one is said plainly."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimono.data import Characters, random_batches, read_text, split


def test_python_help_topics_are_joined_in_order() -> None:
    text = read_text()
    from pydoc_data.topics import topics

    assert len(text) > 100_000
    places = [text.index(topics[name].replace("\r\n", "\n")) for name in sorted(topics)]
    assert places[0] == 0
    assert text == read_text()
    assert "\r" not in text


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"one\r\ntwo\rthree\n", "one\ntwo\nthree\n"),
        (b"\xef\xbb\xbfwith a mark", "with a mark"),
        ("naïve – 日本 🎈".encode(), "naïve – 日本 🎈"),
    ],
)
def test_read_text(tmp_path: Path, data: bytes, text: str) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(data)
    assert read_text(path) == read_text(str(path)) == text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b" \n\t\r\n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"abc\x89PNG", r"is not UTF-8 text \(byte 3 is 0x89\)"),
        (b"cut off \xe2\x82", r"not UTF-8 text \(byte 8"),
        (b"abc\0def", "zero bytes"),
        ("wide".encode("utf-16-le"), "zero bytes: binary, or UTF-16"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "strange.txt"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        read_text(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt does not exist"):
        read_text(tmp_path / "nowhere.txt")
    with pytest.raises(ValueError, match=r"is a folder, expected a regular file"):
        read_text(tmp_path)


@given(st.text(min_size=1))
def test_encoding_and_decoding_are_inverse(text: str) -> None:
    characters = Characters(text)
    ids = characters.encode(text)
    assert ids.dtype == np.int64
    assert characters.decode(ids) == text
    assert characters.size == len(set(text))
    assert characters.decode(np.arange(characters.size)) == "".join(sorted(set(text)))


def test_characters_refuse_what_they_do_not_know() -> None:
    characters = Characters("abd")
    for unknown in "c", "z", "A":
        with pytest.raises(ValueError, match=rf"'{unknown}' \(place 1\)"):
            characters.encode("a" + unknown)
    with pytest.raises(ValueError, match=r"from -1 to 0, expected 0\.\.2"):
        characters.decode(np.array([0, -1]))
    with pytest.raises(ValueError, match=r"from 0 to 3, expected 0\.\.2"):
        characters.decode(np.array([0, 3]))
    with pytest.raises(TypeError, match="expected integers"):
        characters.decode(np.array([0.0]))
    with pytest.raises(ValueError, match="text is empty"):
        Characters("")
    assert characters.decode(np.array([], dtype=np.int64)) == ""
    assert characters.encode("").shape == (0,)


def test_split_takes_the_end() -> None:
    training, validation = split(np.arange(100), 0.1)
    assert (training.tolist(), validation.tolist()) == ([*range(90)], [*range(90, 100)])
    for fraction in (0.0, 1.0, -0.5, float("nan")):
        with pytest.raises(ValueError, match="expected 0 < fraction < 1"):
            split(np.arange(100), fraction)
    with pytest.raises(ValueError, match="3 characters are too few"):
        split(np.arange(3), 0.1)


def test_random_batches_are_windows_and_their_next_characters() -> None:
    ids = np.arange(20)
    batches = random_batches(ids, batch=500, context=6, rng=np.random.default_rng(0))
    inputs, targets = next(batches)
    assert inputs.shape == targets.shape == (500, 6)
    np.testing.assert_array_equal(inputs[:, 1:], targets[:, :-1])
    np.testing.assert_array_equal(targets, inputs + 1)
    assert set(inputs[:, 0]) == set(range(14))  # every start occurs, the last one included


def test_random_batches_draw_when_asked_and_not_before() -> None:
    rng = np.random.default_rng(0)
    batches = random_batches(np.arange(50), batch=3, context=4, rng=rng)
    untouched = np.random.default_rng(0).bit_generator.state
    assert rng.bit_generator.state == untouched
    next(batches)
    state = rng.bit_generator.state
    expected = next(batches)
    again = np.random.default_rng(7)
    other = random_batches(np.arange(50), batch=3, context=4, rng=again)
    next(other)
    again.bit_generator.state = state
    for ours, theirs in zip(next(other), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_text_shorter_than_the_context_names_both_lengths() -> None:
    with pytest.raises(ValueError, match="ids has 8 characters, a context of 8 needs at least 9"):
        random_batches(np.arange(8), batch=2, context=8, rng=np.random.default_rng(0))
    next(random_batches(np.arange(9), batch=2, context=8, rng=np.random.default_rng(0)))


@pytest.mark.parametrize(
    ("ids", "batch", "context", "message"),
    [
        (np.arange(8.0), 2, 2, "ids has dtype float64"),
        (np.zeros((4, 4), dtype=int), 2, 2, r"shape \(4, 4\)"),
        (np.arange(8), 0, 2, "random_batches: batch is 0"),
        (np.arange(8), 2, 0, "random_batches: context is 0"),
    ],
)
def test_batches_of_nonsense_are_refused(ids, batch, context, message) -> None:
    with pytest.raises(ValueError, match=message):
        random_batches(ids, batch=batch, context=context, rng=0)
