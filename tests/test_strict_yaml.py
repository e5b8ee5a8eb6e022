import textwrap

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hvdtrain.strict_yaml import MAX_DEPTH, read_yaml
from hvdtrain.yaml_scalars import plain_scalar


def flaws(text: str) -> list[tuple[int, str]]:
    return [(flaw.line, flaw.message) for flaw in read_yaml(textwrap.dedent(text)).flaws]


def test_data_and_lines_of_keys_and_list_entries():
    document = read_yaml("a: 1\nb:\n  c: [x,\n   y]\n  d: {e: 2.5}\n")
    assert document.data == {"a": 1, "b": {"c": ["x", "y"], "d": {"e": 2.5}}}
    assert document.lines == {
        ("a",): 1,
        ("b",): 2,
        ("b", "c"): 3,
        ("b", "c", 0): 3,
        ("b", "c", 1): 4,
        ("b", "d"): 5,
        ("b", "d", "e"): 5,
    }
    assert not document.flaws


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        (".5", 0.5),
        ("-2", -2),
        ("+8", 8),
        ("0x1f", 31),
        ("True", True),
        ("~", None),
        ("", None),
        ("cosine", "cosine"),
        ("pkg.mod:function", "pkg.mod:function"),
        ("1.2.3", "1.2.3"),
        ("9223372036854775807", 2**63 - 1),
    ],
)
def test_plain_scalars(text, value):
    found, flaw = plain_scalar(text)
    assert (found, type(found), flaw) == (value, type(value), "")


@pytest.mark.parametrize("text", ["no", "On", "YES", "off", "1:30", "12:30:45", "1_000", "017", "08", "-007", "0o17"])
def test_what_yaml_readers_disagree_on_is_refused(text):
    value, flaw = plain_scalar(text)
    assert value is None
    assert f'"{text}" in quotes for text' in flaw
    assert read_yaml(f'"{text}"').data == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("2024-01-01", "a date"),
        (".inf", "must be a finite number; got .inf"),
        ("-.INF", "finite"),
        (".nan", "finite"),
        ("1e999", "too large"),
        ("9223372036854775808", "too large"),
        ("9" * 5000, "too large"),
    ],
)
def test_scalars_without_a_usable_value(text, words):
    value, flaw = plain_scalar(text)
    assert value is None
    assert words in flaw
    assert len(flaw) < 200


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: [1, 2\nc: 3\n", 3, "opened with '[' on line 2"),
        ("a: {b: 1\n", 2, "opened with '{' on line 1"),
        ("a:\n\tb: 1\n", 2, "a tab where only spaces can be"),
        ("a: b: c\n", 1, "check the indentation"),
        ("a: 1\nb: 'x\nc: 1\n", 2, "never closed"),
        ("a: 1\n- b\n", 2, "the indentation does not fit"),
        ("a: 1\nb: @x\n", 2, "special character"),
        ('a: "\\y"\n', 1, "an unknown escape"),
        ('a: "\\xzz"\n', 1, "hexadecimal"),
        ('a: "\\UFFFFFFFF"\n', 1, "out of range"),
        ("%YAML " + "1" * 5000 + ".1\n---\na: 1\n", 1, "out of range"),
        ("a: 1\nb: \x01\n", 2, "control character"),
        ("a: !x!y 1\n", 1, "tags"),
        ("a: 1\n---\nb: 2\n", 2, "a second YAML document"),
        ("a: ]\n", 1, "not valid YAML"),
    ],
)
def test_syntax_errors_in_plain_words(text, line, words):
    document = read_yaml(text)
    assert not document.is_readable
    assert [flaw.line for flaw in document.flaws] == [line]
    assert words in document.flaws[0].message


def test_every_flaw_is_found_at_once():
    text = """\
        a: &x 1
        b: *x
        c: !!python/object:os.system ls
        d: !own {e: no}
        <<: {f: 1}
        a: 2
        1: x
        ? [k]
        : y
        on: z
        g: "\\ud800"
        """
    found = flaws(text)
    assert [line for line, _ in found] == [1, 2, 3, 4, 4, 5, 6, 7, 8, 10, 11]
    expected = ["anchors", "anchors", "!!python/object:os.system", "!own", "'no'", "merge", "also on line 1"]
    expected += ["a key must be text; got 1", "a list or mapping", "'on'", "surrogate"]
    for (_, message), words in zip(found, expected, strict=True):
        assert words in message


def test_alias_bomb_is_refused_before_it_grows():
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))
    document = read_yaml(bomb)
    assert all("anchors and aliases" in flaw.message for flaw in document.flaws)
    assert document.data["a59"] == [None, None]


@pytest.mark.parametrize("text", ["[" * 10_000, "{a: " * 10_000, "- " * 10_000, "? " * 10_000])
def test_deep_nesting_is_refused(text):
    assert flaws(text) == [(1, f"nested more than {MAX_DEPTH} levels deep")]


yaml_like = st.lists(
    st.sampled_from(
        [*"abn01:-[]{},#&*!|>'\"%@?\\\t \n", "\n  ", ": ", "- ", "!!", "---", "<<", "0x", "1e", "\u2028", "\ufeff"]
    ),
    max_size=30,
).map("".join)


@given(st.one_of(st.text(max_size=60), yaml_like))
@example("%TAG ! !\n--- !a")
@example("a: |9\n")
@settings(max_examples=400, deadline=None)
def test_any_text_is_read_or_refused(text):
    document = read_yaml(text)
    assert document.is_readable or document.flaws
    assert all(1 <= flaw.line <= len(text) + 2 for flaw in document.flaws)


@given(yaml_like)
@settings(max_examples=300, deadline=None)
def test_what_is_accepted_means_the_same_to_pyyaml(text):
    document = read_yaml(text)
    if document.is_readable and not document.flaws and "e" not in text:  # 1e-3 is the one intended difference
        assert document.data == yaml.safe_load(text)
