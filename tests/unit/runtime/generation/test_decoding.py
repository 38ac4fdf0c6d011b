from hypothesis import given
from hypothesis import strategies as st

from edgeq.runtime.generation.decoding import StreamDecoder


def decode_bytes(ids):
    return bytes(ids).decode("utf-8", errors="replace")


def decode_words(ids):
    """Like SentencePiece: every word brings its space, and the first of a text loses it."""
    return "".join(f" w{token}" for token in ids)[1:]


def stream(decode, prompt, ids):
    decoder = StreamDecoder(decode, prompt)
    return [decoder.push(token) for token in ids] + [decoder.finish()]


def test_the_first_word_keeps_its_space():
    assert stream(decode_words, [1, 2], [3, 4]) == [" w3", " w4", ""]


def test_without_a_prompt_there_is_no_space():
    assert stream(decode_words, [], [3, 4]) == ["w3", " w4", ""]


def test_a_character_is_shown_when_it_is_whole():
    assert stream(decode_bytes, b"a", "é€".encode()) == ["", "é", "", "", "€", ""]


def test_an_incomplete_character_is_shown_at_the_end():
    assert stream(decode_bytes, b"a", "€".encode()[:2]) == ["", "", "�"]


@given(st.text(max_size=12), st.text(max_size=30))
def test_pieces_add_up_to_the_text(prompt, text):
    assert "".join(stream(decode_bytes, prompt.encode(), text.encode())) == text
