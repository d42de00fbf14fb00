from twostream.report.text import shorten, visible, width_em


def test_control_characters_become_symbols_and_deceptive_ones_are_replaced():
    assert visible("a\nb\tc\x7f") == "a␊b␉c␡"
    assert visible("a\u202eb\u200bc\x85d\udc80e\ufeff") == "a�b�c�d�e�"
    assert visible("ärger 走 😀") == "ärger 走 😀"


def test_shortening_keeps_the_front_and_never_exceeds_the_width():
    assert shorten("abc", 10) == "abc"
    for name in ("a_long_class_name_of_many_words", "走" * 30, "WWWWWWWWWWWW"):
        short = shorten(name, 6)
        assert short.endswith("…") and name.startswith(short[:-1])
        assert width_em(short) <= 6
