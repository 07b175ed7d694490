"""unet.ahead: items by number, in any order, from a generator that is closed when it is no longer of use."""

import pytest

from unet.ahead import LookAhead


@pytest.fixture
def log():
    return []


@pytest.fixture
def ahead(log):
    """Looks ahead in the numbers up to 4; number 3 cannot be had."""

    def items(first):
        log.append(f"from {first}")
        try:
            for number in range(first, 5):
                if number == 3:
                    raise ValueError("three")
                yield number * 10
        finally:
            log.append("end")

    return LookAhead(items)


def test_closed_it_gives_nothing(ahead, log):
    assert ahead.get(0) is None
    ahead.close()
    assert not log


def test_items_in_order_come_from_one_generator(ahead, log):
    ahead.open()
    assert [ahead.get(number) for number in (0, 1, 2)] == [0, 10, 20]
    assert log == ["from 0"]
    ahead.close()
    assert log == ["from 0", "end"]
    assert ahead.get(1) is None


def test_another_number_starts_anew(ahead, log):
    ahead.open()
    assert [ahead.get(number) for number in (0, 1, 0, 1, 4)] == [0, 10, 0, 10, 40]
    assert log == ["from 0", "end", "from 0", "end", "from 4"]
    assert ahead.get(5) is None


def test_opened_again_it_forgets(ahead, log):
    ahead.open()
    ahead.get(0)
    ahead.open()
    assert ahead.get(1) == 10
    assert log == ["from 0", "end", "from 1"]


def test_errors_are_raised_where_the_item_is_asked_for(ahead, log):
    ahead.open()
    assert ahead.get(2) == 20
    for _ in range(2):
        with pytest.raises(ValueError, match="three"):
            ahead.get(3)
    assert ahead.get(4) == 40
    assert log == ["from 2", "end", "from 3", "end", "from 4"]
