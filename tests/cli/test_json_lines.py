"""JSON lines: strict parsing, and one error for all wrong lines. The formats of data test single reasons."""

import pytest

from tinkex_sync.cli.json_lines import (
    LineProblems,
    WrongLineError,
    excerpt,
    is_blank,
    parse_object,
    require_known_keys,
    split_names,
)
from tinkex_sync.cli.output import CommandError


def test_only_the_first_line_may_begin_with_a_byte_order_mark():
    mark = b"\xef\xbb\xbf"
    assert is_blank(mark + b" \r", 1)
    assert not is_blank(mark, 2)
    assert parse_object(mark + b"{}", 1) == {}
    with pytest.raises(WrongLineError, match="not JSON"):
        parse_object(mark + b"{}", 2)


@pytest.mark.parametrize("text", ['"\\ud83d\\ude00"', '"\\u00e4"', '"\\\\ud800"'])
def test_escaped_characters_are_accepted(text):
    assert len(parse_object(f'{{"a": {text}}}'.encode(), 1)["a"]) in (1, 6)


def test_ten_problems_are_shown_and_the_others_counted():
    problems = LineProblems("p.jsonl", "The end.")
    problems.raise_if_any()
    for line in range(1, 14):
        problems.add(line, "wrong")
    with pytest.raises(CommandError) as raised:
        problems.raise_if_any()
    lines = [raised.value.message, *raised.value.details]
    assert lines == [*(f"p.jsonl:{line}: wrong" for line in range(1, 11)), "... and 3 more lines", "The end."]


def test_an_unknown_key_is_named_with_the_known_ones():
    require_known_keys({"a": 1}, {"b", "a"})
    with pytest.raises(WrongLineError, match=r'the key "c" is not known here \(known: a, b\)'):
        require_known_keys({"a": 1, "c": 2}, {"b", "a"})


def test_long_values_are_shortened_in_messages():
    assert excerpt({"a": None}) == '{"a": null}'
    assert excerpt("x" * 100) == '"' + "x" * 36 + "..."


def test_names_are_separated_by_commas():
    assert split_names("a, b,,a") == {"a", "b"}
    assert split_names(None) == split_names("") == frozenset()
