"""The page of all settings says what configs/common.py says."""

import ast

import config_page

from lit_tune import config as config_lib, shipped


def test_the_page_is_the_one_that_the_file_gives() -> None:
    assert config_page.PAGE.read_text() == config_page.page(config_page.SOURCE.read_text()), (
        "run python tests/config_page.py")


def test_it_has_every_key_once_with_the_default_that_the_program_has() -> None:
    keys = [key for section in config_page.sections(config_page.SOURCE.read_text()) for key in section.keys]
    values = config_lib.flat(shipped.common())
    assert sorted(key.name for key in keys) == sorted(values)
    for key in keys:
        written = eval(compile(ast.parse(key.default, mode="eval"), "default", "eval"), {"__builtins__": {}})
        assert written == values[key.name], key.name


def test_comments_of_several_lines_are_taken_whole_and_only_to_the_next_key() -> None:
    source = '''
def get_config():
    """All."""
    c = C()
    c.a = 1  # first
    # and more | of it
    c.b = (2,
           3)  # second
    c.part = part()
    return c


def part():
    """One part."""
    c = C()
    c.d = "x"
    c.e = 4 / 3  # third
    # not of e's line, but below it
    return c
'''
    top, part = config_page.sections(source)
    assert [(key.name, key.meaning) for key in top.keys] == [("a", "first and more | of it"), ("b", "second")]
    assert (part.name, part.about) == ("part", "One part.")
    assert [(key.name, key.default, key.meaning) for key in part.keys] == [
        ("part.d", '"x"', ""), ("part.e", "4 / 3", "third not of e's line, but below it")]
    assert "first and more \\| of it" in config_page.page(source)
