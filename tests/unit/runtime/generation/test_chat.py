import resource
import time
from datetime import datetime

import pytest

from edgeq.errors import DataError, UnsupportedError
from edgeq.runtime.generation import template_process
from edgeq.runtime.generation.chat import render_chat
from edgeq.runtime.generation.settings import CacheShape, GenerationSettings
from edgeq.runtime.generation.template_process import TemplateProcess

USER = [{"role": "user", "content": "Hi"}]


def settings(template):
    return GenerationSettings(64, 12, (1,), CacheShape(1, 1, 1), "<s>", "</s>", template)


def test_a_template_as_transformers_renders_it(tiny_decoders):
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=_any_tokenizer(), bos_token="<s>")
    tokenizer.chat_template = "{{ bos_token }}" + tiny_decoders.CHAT_TEMPLATE
    chat = [{"role": "system", "content": "Be <b> & brief"}, *USER]
    expected = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert render_chat(settings(tokenizer.chat_template), chat) == expected
    assert "<s><|im_start|>system\nBe <b> & brief<|im_end|>\n" in expected


@pytest.mark.parametrize(
    "template",
    [
        "{% if tools is not none %}tools{% endif %}{{ documents is none }}",
        "{%- for m in messages %}\n{% generation %}{% set x = m.content %}{{ x }}\n"
        "{%- endgeneration %}{% endfor %}{{ x }}",
        "{%- generation -%} a {%- endgeneration -%} generation",
        "{{ strftime_now('%Y')|length }}",
    ],
)
def test_names_and_tags_of_transformers(template):
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=_any_tokenizer(), bos_token="<s>")
    tokenizer.chat_template = template
    expected = tokenizer.apply_chat_template(USER, tokenize=False, add_generation_prompt=True)
    assert render_chat(settings(template), USER) == expected
    assert expected


def _any_tokenizer():
    from tokenizers import Tokenizer, models

    return Tokenizer(models.WordLevel({"<s>": 0}, unk_token="<s>"))


def test_without_generation_prompt(tiny_decoders):
    text = render_chat(settings(tiny_decoders.CHAT_TEMPLATE), USER, add_generation_prompt=False)
    assert text == "<|im_start|>user\nHi<|im_end|>\n"


def test_no_template():
    with pytest.raises(UnsupportedError, match="no chat template"):
        render_chat(settings(None), USER)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "refuses these messages: roles must alternate"),
        ("{% for %}", "not valid Jinja, line 1"),
        ("{{ missing.attribute }}", "fails: UndefinedError"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "fails: SecurityError"),
        ("{{ messages.append(1) }}", "fails: SecurityError"),
        ("{% include 'x' %}", "fails"),
        ("{{ 'x' * 5000000 }}", "5000000 characters"),
    ],
)
def test_bad_templates(template, message):
    with pytest.raises(DataError, match=message):
        render_chat(settings(template), USER)


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'x' * 10**10 }}",
        "{% set n = namespace(x='x') %}{% for a in range(64) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ 'x'.ljust(10**10) }}",
        "{{ 9 ** (9 ** 9) }}",
    ],
)
def test_a_template_that_takes_time_or_memory_without_end_is_stopped(template):
    before = peak_megabytes()
    began = time.process_time()
    with pytest.raises(DataError, match=r"more than the second|MemoryError|OverflowError|characters"):
        render_chat(settings(template), USER)
    assert time.process_time() - began < 0.5
    assert peak_megabytes() - before < 100
    # The next one is rendered as if nothing had been.
    assert render_chat(settings("{{ messages[0].content }}"), USER) == "Hi"


def test_half_an_answer_is_none(tmp_path, monkeypatch):
    script = tmp_path / "killed_while_it_writes.py"
    script.write_text('import sys; sys.stdin.readline(); sys.stdout.write(\'{"text": "H\')')
    process = TemplateProcess()
    with monkeypatch.context() as patch:
        patch.setattr(template_process, "SCRIPT", script)
        with pytest.raises(DataError, match="more than the second"):
            process.render("Hi", {}, None)
    assert process.render("Hi", {}, None) == "Hi"
    process.close()


def peak_megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.parametrize(
    "messages",
    [[], [{"role": "user"}], [{"role": "robot", "content": "Hi"}], [{"role": "user", "content": ["parts"]}]],
)
def test_bad_messages(messages):
    with pytest.raises(DataError):
        render_chat(settings("x"), messages)


def test_a_template_is_told_the_time_that_is_given():
    template = settings("{{ strftime_now('%Y-%m-%d %H') }}")
    assert render_chat(template, USER, now=datetime(2026, 1, 2, 3)) == "2026-01-02 03"
    assert render_chat(template, USER) != "2026-01-02 03"
