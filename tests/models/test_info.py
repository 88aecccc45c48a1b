import pytest

from fastmix.models.info import Info, from_text

INFO = Info("resnet18", ["a", "é b"], 32, None, "bicubic", [0.5, 0.5, 0.5], [0.25, 0.25, 0.25], {"drop_rate": 0.1})


def test_text_and_back():
    assert "\n" not in INFO.text and from_text(INFO.text, "here") == INFO


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": "x"}', "{", '{"unknown": 1}', "3"])
def test_other_text_is_one_line(text):
    with pytest.raises(ValueError, match="^here: no description of a model") as error:
        from_text(text, "here")
    assert "\n" not in str(error.value)
